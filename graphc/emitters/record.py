"""What an artifact remembers of its Program, as JSON: contract, aliases, history, names of values."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphc.emitters.exporting import dynamic_names
from graphc.emitters.naming import names_of
from graphc.emitters.trust import refuse
from graphc.errors import EmitError
from graphc.ir.capture import capture
from graphc.ir.contract import Contract, TensorSpec
from graphc.ir.program import Program
from graphc.ir.specs import is_place

FORMAT = 1


def version() -> str:
    """The version of graphc that is installed."""
    return importlib.metadata.version("graphc")


def describe(program: Program) -> dict[str, Any]:
    """A JSON-able record of everything but the graph and the tensors."""
    return {
        "format": FORMAT,
        "graphc": version(),
        "inputs": [_spec(s) for s in program.contract.inputs],
        "outputs": [_spec(s) for s in program.contract.outputs],
        "aliases": dict(program.aliases),
        "history": list(program.history),
        "values": names_of(program),
    }


def read_record(text: str, path: Path) -> dict[str, Any]:
    """A record, in which names are names: they come into code, and into comments of it.

    Raises:
        EmitError: it is no record, or a name is none.
    """
    try:
        record = json.loads(text)
        words = [e["name"] for e in (*record["inputs"], *record["outputs"])]
        words += [str(dim) for e in (*record["inputs"], *record["outputs"]) for dim in e["shape"]]
        words += [part for alias in record["aliases"].items() for part in alias]
        nodes = [entry[0] for entry in record.get("values", ())]
        lines = [*record["history"], *(part for entry in record.get("values", ()) for part in entry)]
        dtypes = [e["dtype"] for e in (*record["inputs"], *record["outputs"]) if e["dtype"] is not None]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise EmitError("the record of graphc in it cannot be read", where=str(path), why=why) from error
    strange = [word for word in words if not re.fullmatch(r"[\w.\-+*/(), ]*", word)]
    strange += [name for name in nodes if not name.isidentifier()]
    strange += [line for line in lines if not line.replace("\n", " ").replace("\t", " ").isprintable()]
    strange += [name for name in dtypes if not isinstance(getattr(torch, name, None), torch.dtype)]
    if strange:
        refuse(path, f"a name in its record has characters that names do not have: {strange[0][:80]!r}")
    found: dict[str, Any] = record
    return found


def _spec(spec: TensorSpec) -> dict[str, Any]:
    dtype = None if spec.dtype is None else str(spec.dtype).removeprefix("torch.")
    return {"name": spec.name, "dtype": dtype, "shape": list(spec.shape)}


def specs(entries: list[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """Input or output specs from a record."""
    return tuple(
        TensorSpec(e["name"], None if e["dtype"] is None else getattr(torch, e["dtype"]), tuple(e["shape"]))
        for e in entries
    )


def restore(exported: ExportedProgram, record: Mapping[str, Any], where: str) -> Program:
    """The Program of an exported graph, with the names and the history that a record has.

    Raises:
        EmitError: the record is of another format, or the graph has other inputs or outputs.
    """
    if record.get("format") != FORMAT:
        why = f"its record has format {record.get('format')!r}, this graphc reads {FORMAT}"
        raise EmitError("the artifact cannot be read", where=where, why=why, hint="emit it again")
    program = capture(exported)
    wanted = specs(record["inputs"]), specs(record["outputs"])
    names: dict[str, str] = {}
    for found, spec in zip(program.contract.inputs, wanted[0], strict=True):
        for old, new in zip(found.shape, spec.shape, strict=True):
            if isinstance(old, str) and isinstance(new, str) and old.isidentifier() and new.isidentifier():
                names[old] = new
    contract = _renamed(program.contract, names, wanted[0])
    for spec, kept in zip((*contract.inputs, *contract.outputs), (*wanted[0], *wanted[1]), strict=True):
        named = spec.name == kept.name or (is_place(spec.name) and is_place(kept.name))
        if not named or (spec.dtype, len(spec.shape)) != (kept.dtype, len(kept.shape)):
            raise EmitError(
                "the artifact is not what its record says", where=where, why=f"{kept} recorded, {spec} found"
            )
    dynamic = dynamic_names(program.module, contract)
    contract = dataclasses.replace(contract, outputs=wanted[1], dynamic=dynamic)
    return dataclasses.replace(
        program, contract=contract, aliases=dict(record["aliases"]), history=tuple(record["history"])
    )


def _renamed(contract: Contract, names: Mapping[str, str], inputs: tuple[TensorSpec, ...]) -> Contract:
    def rename(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"\w+", lambda m: names.get(m.group(), m.group()), value)
        return value

    def renamed(spec: TensorSpec, name: str) -> TensorSpec:
        return TensorSpec(name, spec.dtype, tuple(rename(d) for d in spec.shape))

    given = tuple(renamed(found, kept.name) for found, kept in zip(contract.inputs, inputs, strict=True))
    made = tuple(renamed(spec, spec.name) for spec in contract.outputs)
    return dataclasses.replace(contract, inputs=given, outputs=made)
