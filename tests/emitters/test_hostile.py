"""Files that would run something, or that are larger than they can be, are refused before they are read."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import graphc
from graphc.emitters.archive import check_archive
from graphc.emitters.source import check_source
from graphc.emitters.trust import HostileError, check_tree, is_op
from graphc.errors import EmitError
from tests import models

RAN: list[str] = []


def run_this(text: str) -> str:
    RAN.append(text)
    return text


class Payload:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> Any:
        return run_this, ("payload",)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program as a .pt2 file and as a folder."""
    folder = tmp_path_factory.mktemp("artifacts")
    program = models.residual()
    graphc.emit(program, folder / "m.pt2")
    graphc.emit(program, folder / "m")
    return folder


def changed(path: Path, to: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> Path:
    """A copy of an archive with its files changed, left out, or more of them."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in more.items():
            new.writestr(name, content)
    return to


def edited(part: str, edit: Callable[[Any], None]) -> Callable[[str, bytes], bytes]:
    """Edits the JSON of one file of an archive."""

    def change(name: str, content: bytes) -> bytes:
        if not re.search(part, name):
            return content
        value = json.loads(content)
        edit(value)
        return json.dumps(value).encode()

    return change


def graph(value: Any) -> Any:
    return value["graph_module"]["graph"]


def call(target: str) -> Callable[[Any], None]:
    return lambda value: graph(value)["nodes"][0].update(target=target)


def first_weight(**fields: Any) -> Callable[[Any], None]:
    return lambda value: next(iter(value["config"].values())).update(fields)


def larger(value: Any) -> None:
    next(iter(value["config"].values()))["tensor_meta"]["sizes"][0]["as_int"] = 10**9


def test_good_files_load(artifacts: Path) -> None:
    assert str(graphc.load(artifacts / "m.pt2")) == str(graphc.load(artifacts / "m"))


def name_of_input(value: Any) -> None:
    text = json.dumps(value).replace('"x"', json.dumps("x=print(1)"))
    value.clear()
    value.update(json.loads(text))


def expression(text: str) -> Callable[[Any], None]:
    def edit(value: Any) -> None:
        found = json.dumps(value)
        new = re.sub(r'"expr_str": "[^"]*"', lambda _: f'"expr_str": {json.dumps(text)}', found)
        assert new != found
        value.clear()
        value.update(json.loads(new))

    return edit


def module_path(value: Any) -> None:
    for node in graph(value)["nodes"]:
        node["metadata"]["nn_module_stack"] = "L__self__,a\n        import os,m.N"


HOSTILE: dict[str, tuple[Callable[[str, bytes], bytes | None], str]] = {
    "a function": (edited(r"models/", call("torch.hub.load")), "no op"),
    "a private op": (edited(r"models/", call("torch.ops.aten.__class__")), "no op"),
    "a file op": (edited(r"models/", call("torch.ops.aten.from_file.default")), "no op"),
    "the system": (edited(r"models/", call("math.__loader__.load_module")), "no op"),
    "an expression": (edited(r"models/", expression("__import__('os').getpid()")), "expression of sizes"),
    "a call in an expression": (edited(r"models/", expression("preview(s0)")), "expression of sizes"),
    "a name that is code": (edited(r"models/", name_of_input), "a name has characters"),
    "a comment that ends": (edited(r"models/", module_path), "no text"),
    "pickled weights": (edited("weights_config", first_weight(use_pickle=True)), "is pickled"),
    "weights elsewhere": (edited("weights_config", first_weight(path_name="../../x")), "is pickled"),
    "a billion entries": (edited("weights_config", larger), "has no room for"),
    "nothing": (lambda name, content: b"" if "models/" in name else content, "no file of torch.export"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_archives(artifacts: Path, tmp_path: Path, case: str) -> None:
    change, why = HOSTILE[case]
    path = changed(artifacts / "m.pt2", tmp_path / "m.pt2", change)
    with pytest.raises(HostileError, match=why):
        graphc.load(path)


@pytest.mark.parametrize("kind", ["examples", "weights", "constants", "library", "outside"])
def test_archives_with_more_in_them(artifacts: Path, tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    torch.save(((Payload(),), {}), buffer)
    if kind == "examples":
        path = changed(
            artifacts / "m.pt2",
            tmp_path / "m.pt2",
            lambda name, content: buffer.getvalue() if "sample_inputs" in name else content,
        )
    else:
        name = {
            "weights": "m/data/weights/m.pt",
            "constants": "m/data/constants/opaque_obj_0",
            "library": "m/data/aotinductor/m/m.so",
            "outside": "m/../../escape",
        }[kind]
        content = pickle.dumps(Payload()) if kind == "constants" else buffer.getvalue()
        path = changed(artifacts / "m.pt2", tmp_path / "m.pt2", lambda _, content: content, **{name: content})
    RAN.clear()
    with pytest.raises(HostileError):
        graphc.load(path)
    assert RAN == []


def test_a_compressed_archive_is_not_unpacked(artifacts: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(artifacts / "m.pt2") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("m/extra/bomb", bytes(10**7))
    assert path.stat().st_size < 10**6
    with pytest.raises(HostileError, match="compressed"):
        graphc.load(path)


def test_an_expanded_example_input_is_not_believed(artifacts: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(((torch.zeros(1).expand(10**9),), {}), buffer)
    change = lambda name, content: buffer.getvalue() if "sample_inputs" in name else content  # noqa: E731 - one use
    with pytest.raises(HostileError, match="a part of it only"):
        check_archive(changed(artifacts / "m.pt2", tmp_path / "m.pt2", change))


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record["values"][0].__setitem__(0, "x; import os"),
        lambda record: record["aliases"].__setitem__("a\nimport os", "stem.weight"),
        lambda record: record["inputs"][0].__setitem__("name", "x=exit()\n"),
        lambda record: record["inputs"][0].__setitem__("dtype", "load"),
    ],
    ids=["value", "alias", "input", "dtype"],
)
def test_names_in_a_record_are_names(artifacts: Path, tmp_path: Path, edit: Callable[[Any], None]) -> None:
    path = changed(artifacts / "m.pt2", tmp_path / "m.pt2", edited(r"graphc\.json", edit))
    with pytest.raises(HostileError, match="a name in its record"):
        graphc.load(path)


def copied(artifacts: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    for file in (artifacts / "m").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


SOURCES = {
    "an import": ("import torch\n", "import torch\nimport os\n"),
    "a statement": ("aten = torch.ops.aten\n", 'aten = torch.ops.aten\nprint("x")\n'),
    "another load": ("return model.eval()", "return torch.load(folder)"),
    "a call in forward": ("F.relu(", "torch.hub.load("),
    "a builtin": ("F.relu(", "eval("),
    "an attribute": ("F.relu(", "self.__class__("),
    "a file": ("F.relu(", "aten.from_file("),
    "a method": ("F.relu(", "self.apply("),
    "a lambda": ("F.relu(", "(lambda v: v)("),
    "a default": ("def forward(self, x):", "def forward(self, x=print(1)):"),
    "a decorator": ("    def forward(self, x):", "    @print\n    def forward(self, x):"),
    "a base class": ("class Model(Tensors):", "class Model(Tensors, metaclass=print):"),
    "a declaration": ("self.parameter('head.bias', 5)", "self.parameter('head.bias', open('x'))"),
    "a module function": ("F.relu(", "torch.to("),
}


@pytest.mark.parametrize("case", list(SOURCES))
def test_a_changed_model_file_does_not_run(artifacts: Path, tmp_path: Path, case: str) -> None:
    folder = copied(artifacts, tmp_path)
    source = (folder / "model.py").read_text()
    old, new = SOURCES[case]
    assert old in source
    (folder / "model.py").write_text(source.replace(old, new, 1))
    with pytest.raises(HostileError, match="refused"):
        graphc.load(folder)


def test_folders_stay_in_their_folder(artifacts: Path, tmp_path: Path) -> None:
    folder = copied(artifacts, tmp_path)
    (tmp_path / "elsewhere").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostileError, match="another place"):
        graphc.load(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "example_inputs.safetensors", "program.json"])
def test_damaged_folders(artifacts: Path, tmp_path: Path, file: str) -> None:
    folder = copied(artifacts, tmp_path)
    (folder / file).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(EmitError, match=r"damaged|cannot be read"):
        graphc.load(folder)


def test_structures_are_plain_containers(tmp_path: Path) -> None:
    good = torch.utils._pytree.treespec_dumps(torch.utils._pytree.tree_structure(((1, [2]), {"a": {"b": 3}})))
    check_tree(good, tmp_path)
    bad = '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'
    with pytest.raises(HostileError, match="defaultdict"):
        check_tree(bad, tmp_path)


def test_what_is_an_op() -> None:
    good = "torch.ops.aten.add.Tensor _operator.getitem math.ceil torch.sym_max torch.ops.higher_order.cond"
    bad = "torch.load torch.ops.load_library os.system torch.ops.aten.__init__ _operator.call torch.ops.higher_order.x"
    assert all(map(is_op, good.split()))
    assert not any(map(is_op, bad.split()))


def test_generated_files_of_transformers_are_what_they_should_be(tmp_path: Path) -> None:
    for name, program in {"transformer": models.transformer(), "residual": models.residual()}.items():
        graphc.emit(program, tmp_path / name)
        check_source(tmp_path / name / "model.py")
