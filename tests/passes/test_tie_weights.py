from __future__ import annotations

import copy
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from graphc.passes import Distill, Factorize, Finetune, PruneHeads, PruneWidth, Quantize, TieWeights
from safetensors import safe_open
from torch import Tensor, nn

import graphc
from graphc.emitters.base import emit
from graphc.errors import GraphError, RecipeError
from tests import models


class Block(nn.Module):
    """A feed-forward block as in transformers; with a gate on request."""

    def __init__(self, width: int, hidden: int, gate: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.norm(x))
        return x + self.down(y.sigmoid() * y if self.gate else y.relu())


class Stack(nn.Module):
    """Blocks one after the other, and a classifier."""

    def __init__(self, *blocks: Block) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def stack(count: int = 4) -> Stack:
    torch.manual_seed(0)
    return models.randomise(Stack(*(Block(12, 24) for _ in range(count))).eval())  # type: ignore[return-value]


def shared(model: Stack) -> Stack:
    """The same written by hand: one block stands in the list many times."""
    one = copy.deepcopy(model.blocks[0])
    made = Stack(*[one] * len(model.blocks))
    made.head = copy.deepcopy(model.head)
    return made.eval()


def data(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(4, 7, 12, generator=generator), torch.randint(0, 5, (4,), generator=generator))
        for _ in range(count)
    ]


def tied(program: graphc.Program, given: Any = None, **options: Any) -> graphc.Program:
    found = graphc.compile(program, passes=[TieWeights(**options)], data={"calibration": given} if given else {})
    return found.program


def stored(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Types and sizes, the smaller first, of all matrices that an artifact has, as often as they stand in its files."""
    if path.suffix == ".onnx":
        found = [onnx.numpy_helper.to_array(weight) for weight in onnx.load(path).graph.initializer]
        kinds = [(str(value.dtype), value.shape) for value in found]
    elif path.suffix == ".pt2":
        with zipfile.ZipFile(path) as file:
            names = [name for name in file.namelist() if re.search(r"/(weight|tensor)_\d+$", name)]
            sizes = Counter(file.getinfo(name).file_size for name in names)
        held = graphc.load(path).tensors()
        assert sizes == Counter(value.numel() * value.element_size() for value in held.values())
        kinds = [(str(value.dtype).removeprefix("torch."), tuple(value.shape)) for value in held.values()]
    else:
        with safe_open(path / "model.safetensors", "np") as file:  # type: ignore[no-untyped-call]
            found = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        kinds = [(str(value.dtype), value.shape) for value in found]
    return sorted((kind, tuple(sorted(shape))) for kind, shape in kinds if len(shape) == 2 and min(shape) > 1)


def outputs(path: Path, program: graphc.Program, x: Tensor) -> Tensor:
    """What an artifact gives: by onnxruntime, or loaded again."""
    if path.suffix != ".onnx":
        with torch.no_grad():
            return graphc.load(path)(x)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def test_all_layers_share_as_if_it_had_been_written_so() -> None:
    model = stack()
    program = graphc.capture(model, (data()[0][0],))
    one = tied(program)
    by_hand = shared(model)
    x = data()[1][0]
    torch.testing.assert_close(one(x), by_hand(x))
    assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in by_hand.parameters())
    assert one.aliases["blocks.3.up.weight"] == "blocks.0.up.weight"
    assert sum(p.numel() for p in program.parameters()) > 3 * sum(p.numel() for p in one.parameters())
    assert not torch.allclose(program(x), one(x))


STEP = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0, "schedule": "constant", "log": None}


@pytest.fixture(scope="module")
def through() -> dict[str, graphc.Program]:
    """A tied stack, the same pruned, then trained by a step, then quantised."""
    program = graphc.capture(stack(), (data()[0][0],))
    given = {"train": data()[:1], "calibration": [x for x, _ in data(4)]}
    found = {"tied": graphc.compile(program, passes=[TieWeights()]).program}
    passes = {
        "pruned": PruneWidth(pruning_ratio=0.25),
        "trained": Finetune(**STEP),
        "quantised": Quantize(target="onnxruntime-cpu", smooth=0),
    }
    for name, item in passes.items():
        found[name] = graphc.compile(list(found.values())[-1], passes=[item], data=given).program
    return found


def test_a_tie_is_pruned_and_trained_as_if_it_had_been_written_so(through: dict[str, graphc.Program]) -> None:
    by_hand = Stack(*[Block(12, 18)] * 4)
    pruned = through["pruned"].tensors()
    by_hand.load_state_dict({**{n: pruned[through["pruned"].aliases.get(n, n)] for n in by_hand.state_dict()}})
    x, labels = data()[0]
    nn.functional.cross_entropy(by_hand(x), labels).backward()
    wanted = dict(by_hand.named_parameters())
    assert set(wanted) == set(pruned) == set(through["trained"].tensors())
    for name, parameter in wanted.items():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0
        torch.testing.assert_close(
            through["trained"].tensors()[name], parameter - 0.5 * parameter.grad, msg=name, check_device=False
        )
    assert through["trained"].aliases == through["tied"].aliases


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ""])
def test_a_tie_stays_one_tensor_in_every_file(suffix: str, through: dict[str, graphc.Program], tmp_path: Path) -> None:
    x, path = data(5)[4][0], tmp_path / f"x{suffix}"
    emit(through["trained"], path)
    assert stored(path) == [("float32", (5, 12)), ("float32", (12, 18)), ("float32", (12, 18))]
    with torch.no_grad():
        torch.testing.assert_close(outputs(path, through["trained"], x), through["trained"](x), rtol=1e-4, atol=1e-5)
    path = tmp_path / f"q{suffix}"
    emit(through["quantised"], path)
    assert [one for one in stored(path) if one[0] == "int8" and min(one[1]) > 1] == [
        ("int8", (5, 12)), ("int8", (12, 18)), ("int8", (12, 18)),
    ]  # fmt: skip
    with torch.no_grad():
        wanted = through["quantised"](x)
        steps = float(wanted.abs().max()) / 127
        assert float((outputs(path, through["quantised"], x) - wanted).abs().max()) < 2 * steps


def test_the_users_class_has_one_tensor_too(through: dict[str, graphc.Program]) -> None:
    module = graphc.to_module(through["trained"], stack())
    assert module.blocks[3].up.weight is module.blocks[0].up.weight
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in through["trained"].parameters())


def test_files_shrink_by_what_is_shared(tmp_path: Path) -> None:
    program = graphc.capture(stack(), (data()[0][0],))
    one = tied(program)
    kept = sum(p.numel() for p in one.parameters())
    saved = 4 * (sum(p.numel() for p in program.parameters()) - kept)
    assert saved == 3 * 4 * (kept - 5 * 13)
    for name, file in (("a.onnx", "a.onnx"), ("a/", "a/model.safetensors")):
        sizes = []
        for made in (program, one):
            emit(made, tmp_path / name)
            sizes.append((tmp_path / file).stat().st_size)
        names = len(program.tensors()) - len(one.tensors())
        assert saved <= sizes[0] - sizes[1] <= saved + 400 * names, (
            "a name and what belongs to it goes with each tensor"
        )


def test_groups_and_what_they_start_as() -> None:
    program = graphc.capture(stack(), (data()[0][0],))
    before = program.tensors()
    two = tied(program, groups=2, init="mean")
    assert {two.aliases[f"blocks.{i}.up.weight"] for i in (1, 3)} == {"blocks.0.up.weight", "blocks.2.up.weight"}
    mean = (before["blocks.2.up.weight"] + before["blocks.3.up.weight"]) / 2
    torch.testing.assert_close(two.tensors()["blocks.2.up.weight"], mean)
    assert two.tensors()["blocks.2.up.weight"].requires_grad
    with torch.no_grad():
        before["blocks.2.down.weight"].mul_(9)
    best = tied(program, init="best", importance="l2")
    assert torch.equal(best.tensors()["blocks.0.up.weight"], before["blocks.2.up.weight"])
    assert torch.equal(best.tensors()["blocks.0.norm.bias"], before["blocks.2.norm.bias"])


def test_the_best_layer_by_what_it_does_to_data() -> None:
    model = stack()
    with torch.no_grad():
        model.blocks[2].down.weight.mul_(20)
    program = graphc.capture(model, (data()[0][0],))
    best = tied(program, [x for x, _ in data()], init="best", importance="block_influence")
    assert torch.equal(best.tensors()["blocks.0.up.weight"], program.tensors()["blocks.2.up.weight"])


def test_parts_of_layers() -> None:
    program = graphc.capture(stack(), (data()[0][0],))
    norms = tied(program, parts=["norms"])
    assert set(norms.aliases.values()) == {"blocks.0.norm.weight", "blocks.0.norm.bias"}
    named = tied(program, parts=["up"], targets=["blocks.1", "blocks.3"])
    assert named.aliases == {"blocks.3.up.weight": "blocks.1.up.weight", "blocks.3.up.bias": "blocks.1.up.bias"}
    with pytest.raises(RecipeError, match=r"no tensor of blocks\.0 is of the part 'ups'"):
        tied(program, parts=["ups"])


@pytest.mark.parametrize(("part", "names"), [
    ("attention", {"query", "key", "value", "attention.output.dense"}),
    ("feed-forward", {"intermediate.dense", "0.output.dense"}),
    ("norms", {"LayerNorm"}),
])  # fmt: skip
def test_parts_of_bert(part: str, names: set[str]) -> None:
    model, inputs = models.tiny_bert()
    done = tied(graphc.capture(model, kwargs=inputs), parts=[part])
    kept = set(done.aliases.values())
    assert kept
    assert all(any(name in one for name in names) for one in kept)
    assert all(any(name in one for one in kept) for name in names)


@pytest.mark.parametrize("make", [models.tiny_bert, models.tiny_gpt2, models.tiny_llama])
def test_layers_of_transformers(make: Any) -> None:
    model, inputs = make()
    program = graphc.capture(model, kwargs=inputs)
    done = tied(program)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in state:
        if done.aliases.get(name, name) in state:
            state[name] = state[done.aliases.get(name, name)]
    model.load_state_dict(state)
    torch.testing.assert_close(done(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-5)


def test_named_tensors_become_one_transposed_where_only_that_fits() -> None:
    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(6, 4), nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(x).relu())

    model = models.seeded(Auto)
    program = graphc.capture(model, (models.vectors(),))
    done = tied(program, ties=[["encode.weight", "decode.weight"]])
    assert set(done.tensors()) == {"encode.weight", "encode.bias", "decode.bias"}
    with torch.no_grad():
        model.decode.weight.copy_(model.encode.weight.t())
    torch.testing.assert_close(done(models.vectors()), model(models.vectors()))
    pruned = graphc.compile(done, passes=[PruneWidth(pruning_ratio=0.5, round_to=1)]).program
    assert pruned.tensors()["encode.weight"].shape == (2, 6)


def test_axes_of_tied_tensors_must_be_divided_alike() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x).view(-1, 4, 3).softmax(1).sum(2), self.second(x).view(-1, 3, 4).softmax(1).sum(2)

    program = graphc.capture(models.seeded(Two), (models.vectors(4, 12),))
    with pytest.raises(GraphError, match=r"would pin the axis first\.out(.|\n)*no common boundary"):
        tied(program, ties=[["first.weight", "second.weight"]])


def test_a_name_leaves_a_tie() -> None:
    program = models.transformer(tied=True)
    (name, kept), *_ = program.aliases.items()
    done = tied(program, untie=[name])
    assert name in done.tensors() or name not in done.aliases
    assert len(done.tensors()) == len(program.tensors()) + 1
    args, kwargs = program.example()
    torch.testing.assert_close(done(*args, **kwargs), program(*args, **kwargs))
    again = tied(done, ties=[[kept, name]])
    assert len(again.tensors()) == len(program.tensors())


def differing() -> graphc.Program:
    torch.manual_seed(0)
    return graphc.capture(Stack(Block(12, 24), Block(12, 24, gate=True), Block(12, 36)).eval(), (data()[0][0],))


def test_layers_that_differ_are_refused_with_the_first_difference() -> None:
    with pytest.raises(GraphError, match=r"sigmoid|relu"):
        tied(differing(), targets=["blocks.0", "blocks.1"])
    with pytest.raises(GraphError, match=r"blocks\.0\.up.*\[24.*blocks\.2\.up.*\[36"):
        tied(differing(), targets=["blocks.0", "blocks.2"])
    with pytest.raises(GraphError, match="no layers that are alike"):
        tied(differing())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 4}, "4 groups leave nothing to share"),
        ({"targets": ["blocks.0"]}, "nothing to tie"),
        ({"ties": [["blocks.0.up.weight", "blocks.0.up.wait"]]}, r"blocks\.0\.up\.wait"),
        ({"ties": [["blocks.0.up.weight", "head.bias"]]}, "cannot tie head.bias"),
        ({"ties": [["blocks.0.up.weight", "blocks.0.up.weight"]]}, "one tensor already"),
        ({"untie": ["head.weight"]}, "only name"),
        ({"targets": ["layers.*"]}, r"layers\.\*"),
        ({"parts": ["re:("]}, r"'re:\(' is not a valid pattern"),
    ],
)
def test_what_cannot_be_tied(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        tied(graphc.capture(stack(), (data()[0][0],)), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ties": [["a", "b"]], "groups": 2}, "about names"),
        ({"init": "best", "importance": "l3"}, "no importance of layers"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TieWeights(**options)


class Wide(nn.Module):
    """Two blocks side by side that widen what they read: nothing that enters them has the shape of what leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 24)) for _ in range(2))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.sides[0](x) + self.sides[1](x).sigmoid()).mean(1)


def test_layers_that_have_no_influence_to_take() -> None:
    given = [x for x, _ in data()]
    program = graphc.capture(Wide().eval(), (given[0],))
    assert len(tied(program, init="best").tensors()) == 6
    with pytest.raises(GraphError, match=r"block_influence says nothing of sides\.0") as error:
        tied(program, given, init="best", importance="block_influence")
    assert "another importance" in error.value.hint


def test_calibration_data_is_asked_for() -> None:
    with pytest.raises(RecipeError, match="calibration"):
        tied(graphc.capture(stack(), (data()[0][0],)), init="best", importance="block_influence")


def own_ties() -> dict[str, Any]:
    from transformers import AlbertConfig, AlbertModel, T5Config, T5ForConditionalGeneration

    albert = AlbertConfig(
        vocab_size=61, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48,
    )  # fmt: skip
    t5 = T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    ids = models.tokens(3, 11, 61)
    return {
        "albert": (models.seeded(lambda: AlbertModel(albert)), {"input_ids": ids}),
        "t5": (models.seeded(lambda: T5ForConditionalGeneration(t5)), {"input_ids": ids, "decoder_input_ids": ids}),
        "gpt2": models.tiny_gpt2(),
    }


def several(program: graphc.Program) -> dict[str, int]:
    """How many ops read each matrix that several read, turned or not."""

    def readers(node: torch.fx.Node) -> int:
        turned = (torch.ops.aten.transpose.int, torch.ops.aten.t.default)
        return sum(readers(user) if user.target in turned else 1 for user in node.users)

    found = {
        str(node.target): readers(node)
        for node in program.graph.nodes
        if node.op == "get_attr" and node.meta["val"].dim() == 2 and node.meta["val"].is_floating_point()
    }
    return {name: count for name, count in found.items() if count > 1}


@pytest.mark.parametrize(("name", "tables"), [("albert", 0), ("t5", 1), ("gpt2", 1)])
def test_ties_of_a_model_s_own_stay(name: str, tables: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
    model, inputs = own_ties()[name]
    program = graphc.capture(model, kwargs=inputs)
    before = several(program)
    assert len(before) == (6 if name == "albert" else 1)
    passes = [
        PruneWidth(pruning_ratio=0.25),
        PruneHeads(pruning_ratio=0.25),
        Distill(steps=1, losses=[{"type": "logits-mse"}], log=None),
    ]
    done = graphc.compile(program, passes=passes, data={"train": [inputs]}).program
    assert several(done) == before
    assert dict(done.aliases) == dict(program.aliases)
    assert set(done.tensors()) == set(program.tensors())
    thin = graphc.compile(done, passes=[Factorize(rank=4, targets=list(before))]).program
    parts = {n.replace(".weight", f".{part}.weight"): count for n, count in before.items() for part in ("down", "up")}
    assert several(thin) == parts
    assert sum(61 in tensor.shape for tensor in thin.tensors().values()) == 1
    integers = graphc.compile(thin, passes=[Quantize(scheme="W8A16")]).program
    for suffix in (".onnx", ".pt2", ""):
        path = tmp_path / f"q{suffix}"
        emit(integers, path)
        written, held = Counter(stored(path)), integers.tensors()
        for part in parts:
            assert held[part].dtype == torch.int8
            kind = ("int8", tuple(sorted(held[part].shape)))
            alike = [t for t in held.values() if t.dtype == torch.int8 and tuple(sorted(t.shape)) == kind[1]]
            assert written[kind] == len(alike)
    assert sum(held[part].shape == (61, 4) for part in parts) == tables
