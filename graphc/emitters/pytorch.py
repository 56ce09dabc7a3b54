"""The .pt2 emitter: an ExportedProgram that torch alone can load and run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.export import ExportedProgram

from graphc.emitters.archive import check_archive
from graphc.emitters.base import Emitter
from graphc.emitters.equality import Runner
from graphc.emitters.exporting import export, in_plain_ops, with_plain_outputs
from graphc.emitters.naming import renamed
from graphc.emitters.record import describe, read_record, restore
from graphc.errors import EmitError
from graphc.ir.capture import capture
from graphc.ir.program import Program

RECORD = "graphc.json"


@dataclass(frozen=True, kw_only=True)
class ExportedEmitter(Emitter):
    """Writes ``torch.export.save`` files; ``torch.export.load(path).module()`` runs them.

    Outputs are dicts, tuples, lists and tensors; tied tensors stay one. The contract, the aliases
    and the history are in the extra file ``graphc.json``.
    """

    suffix: ClassVar[str] = ".pt2"

    def write(self, program: Program, path: Path) -> None:
        """Export the program again and save it.

        Raises:
            EmitError: torch.export refuses it.
        """
        exported = export(with_plain_outputs(in_plain_ops(program)), program.contract)
        for node in exported.graph.nodes:
            node.meta.pop("from_node", None)  # it has addresses of memory, which differ from run to run
        torch.export.save(exported, path, extra_files={RECORD: json.dumps(describe(program))})

    def open(self, program: Program, path: Path) -> Runner:
        """Load it with torch.export and run it as a module."""
        module = torch.export.load(path).module()
        return lambda args, kwargs: module(*args, **kwargs)

    def load(self, path: Path) -> Program:
        """A Program from any .pt2 file; one that graphc wrote gets its names and history back.

        Raises:
            EmitError: it is no file of torch.export, or has something in it that reading it would run.
        """
        exported, record = self._read(path)
        if record is None:
            return capture(exported)
        return renamed(restore(exported, record, str(path)), record.get("values", ()))

    @staticmethod
    def _read(path: Path) -> tuple[ExportedProgram, dict[str, Any] | None]:
        check_archive(path)
        extra = {RECORD: ""}
        try:
            exported = torch.export.load(path, extra_files=extra)
        except Exception as error:  # every failure of a foreign reader becomes one EmitError
            raise EmitError(
                "this is no file of torch.export",
                where=str(path),
                why=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
                hint="give a file that graphc.emit or torch.export.save wrote with this version of torch",
            ) from error
        return exported, read_record(extra[RECORD], path) if extra[RECORD] else None
