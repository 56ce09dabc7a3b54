"""Parts: what can be traced of a detector is found, captured, compressed and put back."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from graphc.errors import CaptureError, GraphError
from tests.models import Residual, image, seeded

Program = graphc.Program


class Backbone(nn.Module):
    """Two levels of features by name; filters of two layers are free."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 12
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.fine, self.coarse = nn.Conv2d(8, 12, 3, 1, 1), nn.Conv2d(8, 12, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.norm(self.stem(x)))
        return OrderedDict(fine=self.fine(x), coarse=self.coarse(x))


class Head(nn.Module):
    """Scores of every place of every level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner, self.score = nn.Conv2d(channels, 10, 3, 1, 1), nn.Conv2d(10, 1, 1)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.score(F.relu(self.inner(level))) for level in levels]

    def loss(self, levels: list[Tensor]) -> Tensor:
        return sum(result.square().mean() for result in self(levels))  # type: ignore[return-value] # not 0


class Boxes:
    """What no pytree knows."""

    def __init__(self, where: Tensor) -> None:
        self.where = where


class Propose(nn.Module):
    """The best places: as many as the values say."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, scores: list[Tensor]) -> Boxes:
        keep = torch.where(scores[1] * self.scale > 0)
        if keep[0].numel() == 0:
            return Boxes(torch.zeros(1, 3, dtype=torch.int64))
        return Boxes(torch.stack([keep[0], keep[2], keep[3]], 1))


class Detector(nn.Module):
    """Images of several sizes in, a number of rows that depends on values out."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.parts = nn.ModuleDict({"head": Head(self.backbone.out_channels), "spare": nn.Linear(2, 2)})
        self.propose = Propose()
        self.box_head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 9, 14), nn.ReLU(), nn.Linear(14, 5))

    def forward(self, images: list[Tensor]) -> Tensor:
        rows, columns = (max(i.shape[d] for i in images) for d in (1, 2))
        batch = torch.stack([F.pad(i, (0, columns - i.shape[2], 0, rows - i.shape[1])) for i in images])
        features = self.backbone(batch)
        boxes = self.propose(self.parts["head"](list(features.values())))
        pooled = F.adaptive_avg_pool2d(features["coarse"], 3)
        found: Tensor = self.box_head(pooled[boxes.where[:, 0]])
        return found


PARTS = ["backbone", "parts.head", "box_head"]


def images(count: int = 3, rows: int = 20, columns: int = 28) -> list[Tensor]:
    torch.manual_seed(count)
    return [torch.randn(3, rows + i, columns) for i in range(count)]


def rough(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def detector() -> nn.Module:
    return rough(seeded(Detector))


def captured(detector: nn.Module) -> dict[str, Program]:
    return {path: graphc.capture_part(detector, path, (images(),)) for path in PARTS}


def same(first: nn.Module, second: nn.Module) -> None:
    """At the captured size, at other sizes of images, and for other batches."""
    for given in (images(), images(3, 24, 17), images(1), images(5, 32, 40)):
        with torch.no_grad():
            wanted, found = first(given), second(given)
        assert len(wanted) > 3
        torch.testing.assert_close(found, wanted)


def halves(program: Program) -> dict[Any, list[int]]:
    free = [a for a in graphc.find_axes(program) if a.pinned is None and not a.mixed]
    return {axis: list(range(0, axis.size, 2)) for axis in free}


@pytest.mark.filterwarnings("ignore")
def test_a_whole_detector_is_refused_with_the_line_the_reason_and_the_parts(
    detector: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError) as caught:
        graphc.capture(detector, (images(),))
    error = caught.value
    assert "test_parts.py" in error.where
    assert "number of boxes" in error.why
    assert "nonzero" in error.why
    assert "keep = torch.where(" in error.why
    assert "graphc.capture_part(model, 'backbone', args, kwargs) (also 'parts.head', 'box_head')" in error.hint
    assert "def forward" not in capfd.readouterr().err


def test_the_largest_parts_without_dependence_on_values_are_found(detector: nn.Module) -> None:
    assert graphc.find_parts(detector, (images(),)) == PARTS
    assert graphc.find_parts(seeded(Residual), (image(),)) == [""]
    with pytest.raises(CaptureError, match="do not fit"):
        graphc.find_parts(detector, (torch.randn(2, 3),))


def test_inputs_and_dims_of_a_part_are_those_of_its_call(detector: nn.Module) -> None:
    detector.train()
    parts = captured(detector)
    assert [[s.shape for s in parts[path].contract.inputs] for path in PARTS] == [
        [("batch", 3, "height", "width")],
        [("batch", 12, "height_0", "width_0"), ("batch", 12, "height_1", "width_1")],
        [("batch", 12, 3, 3)],
    ]
    assert parts["backbone"].contract.args[0].shape == (3, 3, 22, 28)
    assert parts["backbone"].tensors()["stem.weight"] is detector.backbone.stem.weight
    assert detector.training
    own = graphc.capture_part(detector, "backbone", (images(),), dynamic={"x": {0: "n"}})
    assert own.contract.inputs[0].shape == ("n", 3, 22, 28)


def test_one_image_is_enough(detector: nn.Module) -> None:
    part = graphc.capture_part(detector, "backbone", (images(1),))
    assert part.contract.inputs[0].shape == ("batch", 3, "height", "width")
    assert part.contract.dims()["batch"] > 1
    same(detector.eval(), graphc.put_parts(detector, {"backbone": part}))


class Twice(nn.Module):
    """torch.export fixes a size of 1 in the second use of the input, and does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1))
        self.second = copy.deepcopy(self.first)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.rows(layers(x)) for layers in (self.first, self.second)]

    def rows(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return x.view(n, -1, 2, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 2)


def test_maps_of_one_place_are_captured_for_all_sizes() -> None:
    model = seeded(Twice).eval()
    program = graphc.capture_part(model, "", (torch.randn(3, 4, 1, 1),))
    assert program.contract.inputs[0].shape == ("batch", 4, "height", "width")
    for size in ((1, 4, 1, 1), (2, 4, 5, 7)):
        x = torch.randn(size)
        torch.testing.assert_close(program(x), model(x))


def test_a_part_that_was_not_traced_as_it_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(Residual).eval()
    wrong = graphc.capture(rough(seeded(Residual)), (image(),))
    monkeypatch.setattr("graphc.ir.parts.capture", lambda *args, **kwargs: wrong)
    with pytest.raises(CaptureError, match="was not traced as it is") as caught:
        graphc.capture_part(model, "", (image(),))
    assert "has other values" in caught.value.why


def test_the_whole_model_is_a_part_too() -> None:
    model = seeded(Residual).eval()
    program = graphc.capture_part(model, "", (image(),))
    whole = graphc.put_parts(model, {"": program})
    torch.testing.assert_close(whole(image(2)), model(image(2)))


def test_a_dim_that_the_part_does_not_let_vary_is_refused(detector: nn.Module) -> None:
    dynamic = {"input": {0: "batch", 2: "height"}}
    with pytest.raises(CaptureError) as caught:
        graphc.capture_part(detector, "box_head", (images(),), dynamic=dynamic)
    assert "height" in caught.value.why
    assert "leave that dim out of `dynamic`" in caught.value.hint


@pytest.mark.parametrize(
    ("path", "what", "hint"),
    [
        ("bakbone", "no part 'bakbone'", "'backbone'"),
        ("parts.spare", "never calls its part 'parts.spare'", "backbone, parts.head, box_head"),
    ],
)
def test_a_part_that_is_not_there_or_not_called_is_refused(
    detector: nn.Module, path: str, what: str, hint: str
) -> None:
    with pytest.raises(CaptureError) as caught:
        graphc.capture_part(detector, path, (images(),))
    assert what in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.filterwarnings("ignore")
def test_a_part_that_depends_on_values_is_refused(detector: nn.Module) -> None:
    with pytest.raises(CaptureError) as caught:
        graphc.capture_part(detector, "propose", (images(),))
    assert "torch.where" in caught.value.why


def test_parts_put_back_uncompressed_give_the_same_boxes(detector: nn.Module) -> None:
    same(detector.eval(), graphc.put_parts(detector, captured(detector)))


def test_a_detector_with_sliced_parts_is_one_with_masked_parts(detector: nn.Module) -> None:
    detector.eval()
    parts = captured(detector)
    kept = {path: halves(program) for path, program in parts.items()}
    assert [len(axes) for axes in kept.values()] == [1, 1, 1]
    sliced = graphc.put_parts(detector, {path: graphc.slice(parts[path], kept[path]) for path in PARTS})
    masked = graphc.put_parts(detector, {path: graphc.mask(parts[path], kept[path]) for path in PARTS})
    same(masked, sliced)
    assert not torch.equal(sliced(images())[:4], detector(images())[:4])
    assert sum(p.numel() for p in sliced.parameters()) < sum(p.numel() for p in detector.parameters())


def test_a_part_keeps_class_attributes_and_methods_and_the_original_stays(detector: nn.Module) -> None:
    before = copy.deepcopy(detector.state_dict())
    whole: Any = graphc.put_parts(detector, captured(detector))
    assert isinstance(whole.backbone, Backbone)
    assert whole.backbone.out_channels == 12
    levels = [torch.randn(2, 12, 5, 6), torch.randn(2, 12, 3, 3)]
    torch.testing.assert_close(whole.parts["head"].loss(levels), detector.parts["head"].loss(levels))
    assert list(whole.state_dict())[:2] == ["backbone.program.stem.weight", "backbone.program.stem.bias"]
    assert type(detector.backbone) is Backbone
    loss = whole.backbone(torch.randn(2, 3, 20, 20))["fine"].square().sum()
    torch.optim.SGD(whole.parameters(), 0.1).zero_grad()
    loss.backward()
    assert whole.backbone.program.stem.weight.grad.abs().sum() > 0
    with torch.no_grad():
        whole.backbone.program.stem.weight.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_detector_with_parts_can_be_copied_and_its_state_saved(
    detector: nn.Module, duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    parts = {"backbone": graphc.capture_part(detector, "backbone", (images(),))}
    sliced = graphc.put_parts(detector.eval(), {"backbone": graphc.slice(parts["backbone"], halves(parts["backbone"]))})
    again = duplicate(sliced)
    same(sliced, again)
    with torch.no_grad():
        for value in again.parameters():
            value.zero_()
    again.load_state_dict(sliced.state_dict())
    same(sliced, again)


def test_a_part_from_a_file_gives_the_classes_that_the_model_expects(detector: nn.Module, tmp_path: Path) -> None:
    graphc.emit(graphc.capture_part(detector, "backbone", (images(),)), tmp_path / "backbone.pt2")
    whole: Any = graphc.put_parts(detector, {"backbone": graphc.load(tmp_path / "backbone.pt2")})
    assert type(whole.backbone(images(1)[0][None])) is OrderedDict
    same(detector, whole)


def test_a_part_in_training_mode_stays_so_and_the_check_does_not_train_it(detector: nn.Module) -> None:
    program = graphc.set_training(graphc.capture_part(detector, "backbone", (images(),)), True)
    before = program.tensors()["norm.running_mean"].clone()
    whole: Any = graphc.put_parts(detector, {"backbone": program})
    assert torch.equal(program.tensors()["norm.running_mean"], before)
    whole.backbone(torch.randn(2, 3, 20, 20))
    assert not torch.equal(whole.backbone.program.norm.running_mean, before)


def test_parts_of_a_detector_with_parts_are_captured_and_put_again(detector: nn.Module) -> None:
    once = graphc.put_parts(detector.eval(), captured(detector))
    assert graphc.find_parts(once, (images(),)) == PARTS
    same(detector, graphc.put_parts(once, captured(once)))


def test_a_program_that_gives_something_else_is_refused(detector: nn.Module) -> None:
    wider = copy.deepcopy(detector)
    wider.backbone.coarse = nn.Conv2d(8, 13, 3, 2, 1)
    program = graphc.capture(wider.backbone, (torch.randn(3, 3, 20, 28),))
    with pytest.raises(GraphError, match="does not fit the part") as caught:
        graphc.put_parts(detector, {"backbone": program})
    assert "backbone, given [3, 3, 20, 28]" in caught.value.where
    assert "'coarse' of the part is torch.float32[3, 12, 5, 7], of the program torch.float32[3, 13, 5, 7]" in (
        caught.value.why
    )
    other = graphc.capture_part(detector, "box_head", (images(),))
    with pytest.raises(GraphError, match="does not fit the part") as caught:
        graphc.put_parts(detector, {"backbone": other})
    assert "graphc.capture_part(model, 'backbone'" in caught.value.hint


def test_a_part_within_another_is_refused(detector: nn.Module) -> None:
    programs = {path: graphc.capture_part(detector, path, (images(),)) for path in ("backbone", "backbone.stem")}
    with pytest.raises(GraphError, match=r"'backbone.stem' lies within the part 'backbone'"):
        graphc.put_parts(detector, programs)
