"""The space of sub-networks: what is found, what is legal, and that its programs are the sub-networks."""

from __future__ import annotations

import pytest
import torch
from graphc.passes.elastic import Cut, Space, Spec, find_space, subnetwork

import graphc
from graphc.errors import GraphError, RecipeError
from tests import models
from tests.passes.elastic import nets


@pytest.fixture(scope="module")
def program() -> graphc.Program:
    return nets.captured(nets.supernet())


@pytest.fixture(scope="module")
def space(program: graphc.Program) -> Space:
    return find_space(program, expand=[6, 4, 3])


def test_blocks_stages_and_matrices_are_found(space: Space) -> None:
    names = [f"stages.{i}" for i in range(6)]
    assert [(c.name, tuple(c.values)) for c in space.kernels] == [(n, (7, 5, 3)) for n in names]
    assert space.kernels[2].matrices["stages.2.spatial.weight"] == {5: "stages.2.to5", 3: "stages.2.to3"}
    widths = [48, 96, 96, 96, 144, 144]
    found = [(c.name, tuple(c.values)) for c in space.widths]
    assert found == [(n, (w, w // 6 * 4, w // 2)) for n, w in zip(names, widths, strict=True)]
    assert [(s.size, s.part, s.round_to) for c in space.widths for s in c.squeezes][:2] == [(16, 4, 8), (24, 4, 8)]
    assert [(c.name, tuple(c.values)) for c in space.depths] == [("stages.0-2", (3, 2, 1)), ("stages.3-5", (3, 2, 1))]
    assert space.count == 3**6 * 3**6 * 3**2


def test_the_smallest_and_samples_are_specs_that_fit(space: Space) -> None:
    spec = space.smallest
    assert set(spec.kernel.values()) == {3}
    assert set(spec.depth.values()) == {1}
    assert space.cut(space.largest) == Cut({}, {}, {})
    draw = torch.Generator().manual_seed(3)
    first, second = space.sample(draw), space.sample(draw)
    assert first != second
    assert first == space.sample(torch.Generator().manual_seed(3))
    assert Spec.from_dict(first.to_dict()) == first
    for sampled in (first, second):
        space.check(sampled)


def test_the_largest_is_the_program_and_smaller_ones_are_smaller(program: graphc.Program, space: Space) -> None:
    args, _ = program.example()
    torch.testing.assert_close(subnetwork(program, space, space.largest)(*args), program(*args), rtol=0, atol=0)
    sizes = [sum(p.numel() for p in subnetwork(program, space, s).parameters()) for s in (space.smallest, Spec())]
    assert sizes[0] < sizes[1] / 2


def test_what_is_in_a_block_that_is_left_out_does_not_count(space: Space) -> None:
    one = Spec({"stages.2": 3}, {"stages.1": 48}, {"stages.0-2": 1})
    assert space.effective(one) == Spec({}, {}, {"stages.0-2": 1})
    cut = space.cut(one)
    assert not cut.units
    assert not cut.kernels
    assert len(cut.skipped) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kernel": {"stages.2": 4}}, r"kernel of stages.2 cannot be 4(.|\n)*legal: 7, 5, 3"),
        ({"width": {"stages.2": 5}}, r"width of stages.2 cannot be 5(.|\n)*legal: 96, 64, 48"),
        ({"depth": {"stages.0-2": 0}}, r"depth of stages.0-2 cannot be 0(.|\n)*legal: 3, 2, 1"),
        ({"kernel": {"stages.9": 3}}, "stages.9"),
        ({"size": {}}, "no 'size'"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(space: Space, values: dict[str, dict[str, int]], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        space.cut(Spec.from_dict(values))


def test_a_plain_network_is_elastic_in_all_its_channels() -> None:
    space = find_space(models.residual(), kernel=[3, 1], width=[1, 0.5], round_to=2)
    assert [tuple(c.values) for c in space.kernels] == [(3, 1), (3, 1)]
    assert [tuple(c.values) for c in space.widths] == [(12, 6), (24, 12)]
    assert not space.depths


def test_nothing_to_choose_is_an_error() -> None:
    with pytest.raises(GraphError, match="no sub-networks"):
        find_space(models.residual(), width=())
    with pytest.raises(RecipeError, match=r"no kernel can be 5(.|\n)*legal: 3"):
        find_space(models.residual(), kernel=[5])
