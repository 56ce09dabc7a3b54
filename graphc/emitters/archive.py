"""Archive: what a .pt2 file may hold, seen before torch reads it.

``torch.export.load`` unpickles: weights and constants that say so, script objects, older forms, and example inputs
that cannot be read otherwise. It runs compiled libraries that an archive brings, evaluates expressions of sizes as
Python, and puts names of inputs into code. So everything of that kind is refused here; what is left is numbers,
names and ops.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch.export.pt2_archive import constants as places

from graphc.emitters.trust import HostileError, check_op, check_tree, refuse

MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version|\.storage_alignment"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/weights/[^/]+_weights_config\.json|data/constants/[^/]+_constants_config\.json"
    r"|models/[^/]+\.json|data/sample_inputs/[^/]+\.pt|extra/[\w./-]+"
)
WORD = re.compile(r"[\w.\-+:\[\] ]*")
"""Names, numbers, versions, classes, devices: nothing that is code where it is put into code."""
EXPRESSION = re.compile(r"[\w\s+\-*/%(),.<>=!&|~]*")
NAMED = re.compile(r"Symbol\('[a-z]+\d+'(, \w+=(True|False))*\)")
"""A symbol with what is assumed of it, as torch writes it."""
SYMBOL = re.compile(r"[a-z]+\d+")
FUNCTIONS = frozenset(
    """
    Max Min Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan And Or
    Not Add Mul Pow Mod Integer Rational Float Symbol floor ceiling Abs Piecewise FloorDiv ModularIndexing
    Where PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv
    IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat
    Identity BitwiseFn_bitwise_and BitwiseFn_bitwise_or oo int_oo True False true false
    """.split()
)
"""What an expression of sizes may call."""
DEEPEST = 200
EXPANSION = 64
"""How many times larger an example input may be than its memory, by being expanded."""


def check_archive(path: Path) -> None:
    """See that a .pt2 file holds nothing that reading it would run.

    Raises:
        GraphError: it does, or it is no such file; says what is in it.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = _members(archive, path, path.stat().st_size)
            for name in members:
                if name.startswith(places.MODELS_DIR):
                    _check_graph(_json(archive, members[name], path), path, name)
                elif name.endswith("_config.json"):
                    folder = name.rpartition("/")[0]
                    _check_payload(_json(archive, members[name], path), members, folder, path)
                elif name.startswith(places.SAMPLE_INPUTS_DIR):
                    with archive.open(members[name]) as inner:
                        _check_examples(inner, path)
    except (zipfile.BadZipFile, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise HostileError("this is no file of torch.export", where=str(path), why=why) from error


def _members(archive: zipfile.ZipFile, path: Path, size: int) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name, without the folder that they are all in."""
    found: dict[str, zipfile.ZipInfo] = {}
    total, roots = 0, set()
    for info in archive.infolist():
        root, slash, name = info.filename.partition("/")
        roots.add(root)
        total += info.file_size
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or total > size:
            refuse(path, f"{info.filename!r} is compressed, or larger than the file", "torch writes files as they are")
        if not slash or ".." in name.split("/") or name in found or len(roots) > 1:
            refuse(path, f"the name {info.filename!r} leaves its folder, or stands twice")
        if not MEMBERS.fullmatch(name):
            refuse(
                path,
                f"torch would unpickle or run {name!r}",
                "load it with torch.export.load if you trust it, and give the ExportedProgram to graphc.capture",
            )
        found[name] = info
    return found


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Any:
    return json.loads(archive.read(info))


def _check_payload(config: Any, members: Mapping[str, zipfile.ZipInfo], folder: str, path: Path) -> None:
    """Weights or constants: plain memory that is as large as they say."""
    for name, entry in config["config"].items():
        _check_word(name, path, folder)
        if entry.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            refuse(
                path,
                f"{name!r} is pickled",
                "load it with torch.export.load if you trust it, and give the ExportedProgram to graphc.capture",
            )
        meta = entry["tensor_meta"]
        sizes, strides = (_numbers(meta[key]) for key in ("sizes", "strides"))
        (offset,) = _numbers([meta["storage_offset"]])
        last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1 if prod(sizes) else 0
        if min((*sizes, *strides, offset), default=0) < 0 or last > members[f"{folder}/{entry['path_name']}"].file_size:
            refuse(path, f"{name!r} is said to be of shape {list(sizes)}, which its memory has no room for")


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(value["as_int"]) for value in values)


def _check_examples(file: IO[bytes], path: Path) -> None:
    """Example inputs: tensors that can be read without unpickling anything else."""
    with zipfile.ZipFile(file) as inner:
        if any(info.compress_type != zipfile.ZIP_STORED for info in inner.infolist()):
            refuse(path, "its example inputs are compressed")
    file.seek(0)
    try:
        value = torch.load(file, weights_only=True)
    except Exception as error:  # torch's own reader has many ways to fail, and each is a reason to go no further
        raise HostileError(
            "the example inputs cannot be read without running code",
            where=str(path),
            why=next(iter(str(error).splitlines()), type(error).__name__),
            hint="load it with torch.export.load if you trust it, and give the ExportedProgram to graphc.capture",
        ) from error
    for leaf in torch.utils._pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor) and leaf.nbytes > EXPANSION * max(1024, leaf.untyped_storage().nbytes()):
            refuse(path, f"an example input of shape {list(leaf.shape)} has memory for a part of it only")


def _check_graph(graph: Any, path: Path, name: str) -> None:
    for keys, text in _strings(graph, ()):
        key = keys[-1]
        if key == "target":
            check_op(text, path)
        elif key == "expr_str":
            _check_expression(text, path)
        elif key in ("in_spec", "out_spec", "treespec"):
            check_tree(text, path)
        elif key in ("nn_module_stack", "torch_fn", "source_fn_stack"):
            if not text.isprintable():
                refuse(path, f"{key} has characters that are no text: {text[:80]!r}")
        elif key not in ("as_string", "as_strings", "stack_trace", "custom", "from_node", "guards_code"):
            _check_word(text, path, ".".join(map(str, keys[-3:])))


def _check_expression(text: str, path: Path) -> None:
    text = NAMED.sub("s0", text)
    words = re.findall(r"[^\W\d]\w*", text)
    strange = [word for word in words if word not in FUNCTIONS and not SYMBOL.fullmatch(word)]
    if strange or not EXPRESSION.fullmatch(text) or re.search(r"\.\s*[^\W\d]", text):
        refuse(path, f"an expression of sizes calls something else: {text[:80]!r}")


def _check_word(text: str, path: Path, where: str) -> None:
    if not WORD.fullmatch(text):
        refuse(path, f"a name has characters that names do not have: {text[:80]!r} ({where})")


def _strings(value: Any, keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every text in a JSON value, keys too, with the keys that lead to it."""
    if len(keys) > DEEPEST:
        raise RecursionError("it is nested too deeply")
    if isinstance(value, str):
        yield keys or ("",), value
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part, keys or ("",))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield (*keys, ""), str(key)
            yield from _strings(part, (*keys, key))
