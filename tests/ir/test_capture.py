"""Capture: what a model and its inputs become."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import graphc
from graphc.errors import CaptureError
from tests import models
from tests.models import image, nested, seeded, tokens, vectors

NETS = [
    (models.Residual, image),
    (models.Grouped, image),
    (models.Concat, image),
    (models.Transformer, tokens),
    (models.InPlace, vectors),
    (models.Ruleless, vectors),
    (models.Norms, vectors),
]


def equal(first: Any, second: Any) -> None:
    a, b = pytree.tree_leaves(first), pytree.tree_leaves(second)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(("build", "make"), NETS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_program_computes_what_its_model_does_at_any_batch(build: Any, make: Any) -> None:
    model = seeded(build)
    program = graphc.capture(model, (make(),))
    assert [spec.shape[0] for spec in program.contract.inputs] == ["batch"]
    with torch.no_grad():
        for batch in (4, 1, 6):
            equal(model(make(batch)), program(make(batch)))


def test_inputs_in_dicts_and_lists_and_by_name_keep_their_place() -> None:
    model = seeded(models.Nested)
    args, kwargs = nested()
    program = graphc.capture(model, args, kwargs)
    assert [s.name for s in program.contract.inputs] == ["features_a", "features_b", "extra_0", "extra_1"]
    assert {s.shape[0] for s in program.contract.inputs} == {"batch"}
    assert [s.name for s in program.contract.outputs] == ["sum", "parts_0", "parts_1"]
    result = program(*args, **kwargs)
    assert set(result) == {"sum", "parts"}
    assert isinstance(result["parts"], tuple)
    equal(model(*args, **kwargs), result)


def test_a_hugging_face_model_keeps_its_output_class_and_gives_no_cache() -> None:
    model, inputs = models.tiny_gpt2()
    program = graphc.capture(model, kwargs=inputs, dynamic={"input_ids": {0: "batch", 1: "seq"}})
    assert model.config.use_cache is True
    model.config.use_cache = False
    assert [s.name for s in program.contract.outputs] == ["logits"]
    result = program(input_ids=tokens(1, 5))
    assert type(result) is type(model(input_ids=tokens(1, 5)))
    equal(model(tokens(1, 5)).logits, result.logits)


def test_names_given_in_another_order_stay_with_their_inputs() -> None:
    model, inputs = models.tiny_bert()
    inputs["attention_mask"][1, 7:] = 0
    program = graphc.capture(model, kwargs=dict(reversed(inputs.items())))
    assert program.contract.dims() == {"batch": 3}
    equal(model(**inputs).logits, program(**dict(reversed(inputs.items()))).logits)


def test_an_exported_program_and_one_from_a_file_become_the_same_program(tmp_path: Path) -> None:
    model = seeded(models.Transformer)
    shapes = {"ids": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(model, (tokens(),), dynamic_shapes=shapes)
    program = graphc.capture(exported)
    torch.export.save(exported, tmp_path / "model.pt2")
    loaded = graphc.capture(torch.export.load(tmp_path / "model.pt2"))
    assert str(loaded) == str(program)
    assert loaded.contract.dims() == {"batch": 3}
    assert loaded.aliases == {"head.weight": "tokens.weight"}
    assert len(list(loaded.parameters())) == len(list(model.parameters()))
    with torch.no_grad():
        equal(loaded(tokens(5)), model(tokens(5)))


@pytest.mark.parametrize(
    ("dynamic", "shape"),
    [
        (None, ("batch", 11)),
        ({}, (3, 11)),
        ({"ids": {0: "batch", 1: "seq"}}, ("batch", "seq")),
        ({"ids": {1: "seq"}}, (3, "seq")),
    ],
)
def test_dynamic_says_which_dims_may_vary(dynamic: Any, shape: tuple[int | str, ...]) -> None:
    program = graphc.capture(seeded(models.Transformer), (tokens(),), dynamic=dynamic)
    assert program.contract.inputs[0].shape == shape
    assert program.contract.outputs[0].shape == (*shape, 37)


class Levels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(5, 6, 3, padding=1)

    def forward(self, levels: dict[str, Tensor], shift: Tensor) -> list[Tensor]:
        return [self.head(level) + shift for level in levels.values()]


def test_tensors_of_one_input_may_vary_each_in_its_own_way() -> None:
    levels = {"fine": torch.randn(3, 5, 12, 14), "coarse": torch.randn(3, 5, 6, 7)}
    dims = {"fine": {0: "batch", 2: "rows"}, "coarse": {0: "batch", 2: "half", 3: "columns"}}
    program = graphc.capture(seeded(Levels), (levels, torch.ones(1)), dynamic={"levels": dims})
    assert [s.shape for s in program.contract.inputs] == [
        ("batch", 5, "rows", 14),
        ("batch", 5, "half", "columns"),
        (1,),
    ]
    assert program.contract.dims() == {"batch": 3, "rows": 12, "half": 6, "columns": 7}
    other = {"fine": torch.randn(2, 5, 8, 14), "coarse": torch.randn(2, 5, 4, 9)}
    with torch.no_grad():
        equal(seeded(Levels)(other, torch.ones(1)), program(other, torch.ones(1)))


def test_dims_in_another_structure_than_their_input_are_refused() -> None:
    levels = {"fine": torch.randn(3, 5, 12, 14)}
    error = refusal(seeded(Levels), levels, torch.ones(1), dynamic={"levels": [{0: "batch"}]})
    assert "do not fit the input" in error.what
    assert "'levels'" in error.where


def test_a_single_sample_is_captured_as_a_fixed_size() -> None:
    assert graphc.capture(seeded(models.Residual), (image(1),)).contract.dims() == {}


def test_buffers_that_are_not_saved_are_tensors_of_the_program() -> None:
    model = seeded(models.Transformer)
    program = graphc.capture(model, (tokens(),))
    assert "positions" not in model.state_dict()
    assert program.tensors()["positions"] is model.positions


def test_tied_parameters_are_one_tensor_with_a_second_name() -> None:
    model = seeded(models.Transformer)
    program = graphc.capture(model, (tokens(),))
    assert program.aliases == {"head.weight": "tokens.weight"}
    assert "head.weight" not in program.tensors()
    assert sum(p is model.tokens.weight for p in program.parameters()) == 1


def test_the_model_stays_as_it_was_and_shares_its_tensors() -> None:
    model = seeded(models.Residual).train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    program = graphc.capture(model, (image(),))
    assert [m.training for m in model.modules()] == [m is not model.norm for m in model.modules()]
    assert program.tensors()["stem.weight"] is model.stem.weight
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert program.module.training is False


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def refusal(model: nn.Module, *args: Any, **kwargs: Any) -> CaptureError:
    with pytest.raises(CaptureError) as caught:
        graphc.capture(model, args, **kwargs)
    return caught.value


def test_inputs_of_a_wrong_shape_are_refused_at_the_users_line() -> None:
    error = refusal(seeded(models.Residual), torch.randn(4, 5, 7, 9))
    assert "do not fit" in error.what
    assert "models.py" in error.where
    assert "self.stem(x)" in error.where
    assert "5 channels" in error.why


def test_missing_inputs_are_refused_with_the_signature() -> None:
    error = refusal(seeded(models.Residual))
    assert "forward(x" in error.where
    assert "'x'" in error.why


def test_an_unknown_name_in_dynamic_offers_the_nearest() -> None:
    error = refusal(seeded(models.Transformer), tokens(), dynamic={"idx": {0: "batch"}})
    assert "'idx'" in error.what
    assert "'ids'" in error.hint


@pytest.mark.parametrize(("dims", "said"), [({7: "batch"}, "no dim 7"), ({0: "my batch"}, "'my batch'")])
def test_impossible_dims_are_refused(dims: dict[int, str], said: str) -> None:
    assert said in refusal(seeded(models.Residual), image(), dynamic={"x": dims}).what


@pytest.mark.filterwarnings("ignore")
def test_control_flow_on_values_is_refused_at_its_line_with_a_way_out() -> None:
    error = refusal(Branching(), image())
    assert "test_capture.py" in error.where
    assert "if x.sum() > 0" in error.where
    assert "depend on values" in error.hint


def test_a_dim_that_the_model_fixes_cannot_be_dynamic() -> None:
    error = refusal(FixedBatch(), vectors(4))
    assert "batch" in error.why
    assert "4" in error.why
    assert "leave that dim out" in error.hint
    assert graphc.capture(FixedBatch(), (vectors(4),), dynamic={}).contract.dims() == {}


def test_an_exported_program_without_inputs_is_refused() -> None:
    exported = torch.export.export(seeded(models.Norms), (vectors(),))
    exported.example_inputs = None
    with pytest.raises(CaptureError, match="no example inputs"):
        graphc.capture(exported)


def test_a_model_exported_in_training_mode_is_refused() -> None:
    exported = torch.export.export(seeded(models.Residual).train(), (image(),))
    with pytest.raises(CaptureError, match="training mode") as caught:
        graphc.capture(exported)
    assert "norm.running_mean" in caught.value.why
    assert "self.norm(" in caught.value.where


class Region(nn.Module):
    """A part that is computed without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        with torch.no_grad():
            scale = hidden.abs().sum(-1, keepdim=True)
        result: torch.Tensor = self.second(hidden / scale)
        return result


def test_a_model_exported_with_gradients_keeps_its_regions_without_them() -> None:
    model, x = seeded(Region), torch.randn(4, 6)
    program = graphc.capture(torch.export.export(model, (x,)))
    assert "wrap_with_set_grad_enabled" in str(program)
    with torch.no_grad():
        equal(model(x), program(x))


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor, mask: Tensor | None = None, flag: bool = True) -> tuple[Any, ...]:
        y = self.layer(self.layer(x))
        return x, y, y, self.layer.bias, mask, flag


def test_inputs_tensors_and_constants_may_be_outputs() -> None:
    model = seeded(Shares)
    program = graphc.capture(model, (vectors(),), {"mask": None, "flag": False})
    result = program(vectors(2), mask=None, flag=False)
    assert result[4:] == (None, False)
    with torch.no_grad():
        equal(model(vectors(2), None, False), result)
    assert [s.shape for s in program.contract.outputs] == [("batch", 6)] * 3 + [(6,), (), ()]


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"class": nn.Linear(6, 4)})

    def forward(self, x: Tensor) -> Tensor:
        return self.heads["class"](x)


def test_a_module_named_like_a_keyword_is_refused() -> None:
    error = refusal(Keyword(), vectors())
    assert error.where == "heads.class.weight"
    assert "'class' is a keyword" in error.why


class Caching(nn.Module):
    """Two configurations, of which each would give a cache."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.config, self.inner, self.last = SimpleNamespace(use_cache=True), inner, nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        y = self.last(x)
        return (y, object()) if self.config.use_cache else y if self.inner is None else y + self.inner(x)


def test_every_configuration_in_a_model_goes_without_its_cache() -> None:
    model = Caching(Caching())
    program = graphc.capture(model, (torch.randn(4, 6),))
    assert [spec.name for spec in program.contract.outputs] == ["output"]
    assert model.inner is not None
    assert model.config.use_cache
    assert model.inner.config.use_cache
