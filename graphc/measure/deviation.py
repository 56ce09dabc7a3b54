"""Deviation: how far each value of a program is from the value of the same name in another, and where that begins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.measure.noise import Noise, decibels, relative, units_of
from graphc.measure.twins import check_inputs, together, twins
from graphc.measure.values import INPUT, OUTPUT, OnnxValues, ProgramValues, Value, Values

FIT, RECOVERY, GOOD = 10.0, 6.0, 20.0
"""Decibels by which a value that was rescaled on purpose is nearer after a factor for each unit; by which all that
reads it is nearer than the value as it is; and to which, where that is far off, it gets at least half of the way."""

NOTABLE = 20.0
"""Decibels beside the worst step within which others are worth a mention."""


@dataclass(frozen=True)
class Deviation:
    """How far one value is from its twin in the reference, over all batches.

    Attributes:
        name: in the program that is compared.
        twin: in the reference; of another name if it is what this value rounds to a few bits, or stands for in
            place of one that is missing.
        module, op, shape: where it is computed, by what, and of which sizes.
        sqnr_db: signal to quantisation noise, ``10 log10(sum x^2 / sum (x - y)^2)``; infinite if both are the same.
        relative_error: ``sqrt(sum (x - y)^2 / sum x^2)``.
        max_abs: largest absolute difference.
        reads: names of the compared values that it is computed from.
        reads_db: the least SQNR among these; infinite if they are the same as in the reference.
        rescaled: whether the SQNR and the relative error are those after a factor for each unit: a rewrite has
            rescaled the value on purpose, since what reads it takes the factors back.
    """

    name: str
    twin: str
    module: str
    op: str
    shape: tuple[int | str, ...]
    sqnr_db: float
    relative_error: float
    max_abs: float
    reads: tuple[str, ...] = ()
    reads_db: float = math.inf
    rescaled: bool = False

    @property
    def drop_db(self) -> float:
        """Decibels that are lost here: those of what it reads less its own; infinite where errors begin."""
        return 0.0 if self.sqnr_db == self.reads_db else self.reads_db - self.sqnr_db

    @property
    def added_db(self) -> float:
        """The SQNR that it would have if what it reads were right: that of the error which is added here.

        Errors that have nothing to do with each other add up by their squares; infinite where none is added.
        """
        added = relative(self.sqnr_db) - relative(self.reads_db)
        return decibels(1, added) if added > 0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON has them; what is infinite is None."""
        found = {**asdict(self), "drop_db": self.drop_db, "added_db": self.added_db}
        return {key: None if isinstance(v, float) and math.isinf(v) else v for key, v in found.items()}


@dataclass(frozen=True)
class Deviations:
    """Two programs, value by value.

    Attributes:
        values: in graph order.
        outputs: in the order of the contract.
        only_reference, only_other: values that have no twin, by name.
    """

    values: tuple[Deviation, ...]
    outputs: tuple[Deviation, ...]
    only_reference: tuple[str, ...] = ()
    only_other: tuple[str, ...] = ()

    def worst(self, count: int) -> list[Deviation]:
        """The values that add most to the error, the worst first, down to a hundredth of what that one adds."""
        least = min((value.added_db for value in self.values), default=math.inf) + NOTABLE
        adding = [value for value in self.values if value.added_db <= least and value.added_db < math.inf]
        return sorted(adding, key=lambda value: value.added_db)[:count]

    def by_module(self) -> Deviations:
        """One value for each stretch of the graph in one module: the last there, with what the stretch reads."""
        stretches: list[list[Deviation]] = []
        for value in self.values:
            if not stretches or stretches[-1][0].module != value.module:
                stretches.append([])
            stretches[-1].append(value)
        known = {value.name: value.sqnr_db for value in self.values}
        return replace(self, values=tuple(_last(stretch, known) for stretch in stretches))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "values": [value.to_dict() for value in self.values],
            "outputs": [value.to_dict() for value in self.outputs],
            "only_reference": list(self.only_reference),
            "only_other": list(self.only_other),
        }


def _last(stretch: Sequence[Deviation], known: Mapping[str, float]) -> Deviation:
    inside = {value.name for value in stretch}
    reads = tuple(dict.fromkeys(name for value in stretch for name in value.reads if name not in inside))
    return replace(stretch[-1], reads=reads, reads_db=min((known[name] for name in reads), default=math.inf))


def deviations(
    reference: Program | Path, other: Program | Path, batches: Iterable[tuple[Sequence[Any], Mapping[str, Any]]]
) -> Deviations:
    """Run two programs side by side and compare their values, which live only until they have been compared.

    Values are twins if they have one name, compatible shapes and real numbers, and, where one op computes
    both, one module path; one that is rounded (``fake_quantize``, ``dequantize``) is compared with what it rounds, and
    one that may also stand for a value that is missing (a batch norm in a convolution) with the nearer of both.

    Args:
        reference, other: Programs, which run as they are; of the path of an ``.onnx`` file only outputs are seen.
        batches: inputs as (args, kwargs) in the reference's structure; sums go over all of them.

    Raises:
        GraphError: inputs or outputs do not fit together (before anything runs), or there is no batch.
    """
    first, second = values_of(reference, "the reference"), values_of(other, "the other")
    return compared(first, second, (first.named(*batch) for batch in batches))


def values_of(what: Program | Path, name: str) -> Values:
    """The values of a Program, or of an ``.onnx`` file."""
    return ProgramValues(what, name) if isinstance(what, Program) else OnnxValues(what)


def compared(reference: Values, other: Values, batches: Iterable[Mapping[str, Any]]) -> Deviations:
    """As ``deviations``, with inputs by name.

    Raises:
        GraphError: as there.
    """
    pairs = twins(reference, other)
    sums: dict[str, dict[str, Noise]] = {}
    with torch.no_grad():
        for named in batches:
            check_inputs(reference, named)
            check_inputs(other, named)
            for twin, key, x, y in together(reference.run(named), other.run(named), pairs):
                if x.shape == y.shape:
                    known = sums.setdefault(key, {})
                    known.setdefault(twin, Noise(units_of(other.values[key].spec.shape))).add(x, y)
                elif key.startswith(OUTPUT):
                    why = f"{list(x.shape)} in {reference.name}, {list(y.shape)} in {other.name}"
                    raise GraphError("the outputs cannot be compared", where=key, why=why)
    if not sums:
        raise GraphError("there is nothing to compare on", why="there is no batch", hint="give at least one")
    return _Table(reference, other, sums).deviations()


class _Table:
    """What has been summed up, and how it hangs together."""

    def __init__(self, reference: Values, other: Values, sums: Mapping[str, Mapping[str, Noise]]) -> None:
        self.reference, self.other = reference, other
        best = {key: max(found.items(), key=lambda item: item[1].sqnr_db) for key, found in sums.items()}
        self.twin = {key: twin for key, (twin, _) in best.items()}
        self.sums = {key: best[key][1] for key in other.values if key in best}
        self.db = {key: found.sqnr_db for key, found in self.sums.items()}
        self.reads = self._reads()
        self.rescaled = self._rescaled()
        self.db |= {key: self.sums[key].scaled_db for key in self.rescaled}

    def deviations(self) -> Deviations:
        rows = [self._row(value) for key, value in self.other.values.items() if key in self.sums]
        return Deviations(
            tuple(row for key, row in rows if not key.startswith(OUTPUT)),
            tuple(row for key, row in rows if key.startswith(OUTPUT)),
            self._alone(self.reference, self.twin.values()),
            self._alone(self.other, self.sums),
        )

    def _row(self, value: Value) -> tuple[str, Deviation]:
        key, found = value.key, self.sums[value.key]
        twin = self.reference.values[self.twin[key]]
        row = Deviation(
            name=value.spec.name,
            twin=twin.spec.name,
            module=value.module or twin.module,
            op=value.op,
            shape=value.spec.shape,
            sqnr_db=self.db[key],
            relative_error=relative(self.db[key]) ** 0.5,
            max_abs=found.largest,
            reads=tuple(self.other.values[k].spec.name for k in self.reads[key]),
            reads_db=min((self.db[k] for k in self.reads[key]), default=math.inf),
            rescaled=key in self.rescaled,
        )
        return key, row

    def _reads(self) -> dict[str, tuple[str, ...]]:
        """For each value the nearest before it that have been compared."""
        found: dict[str, tuple[str, ...]] = {}
        for key, value in self.other.values.items():
            near = ((k,) if k in self.db else found[k] for k in value.reads)
            found[key] = tuple(dict.fromkeys(k for keys in near for k in keys))
        return found

    def _rescaled(self) -> set[str]:
        """Values that are right but for a factor for each unit, which all that reads them takes back."""
        readers: dict[str, list[str]] = {key: [] for key in self.db}
        for key in self.db:
            for source in self.reads[key]:
                readers[source].append(key)
        later = dict(self.db)  # of a rescaled value, what is left in all that reads it
        found: set[str] = set()
        for key in reversed(list(self.db)):
            after = min((later[reader] for reader in readers[key]), default=-math.inf)
            now, fit = self.db[key], self.sums[key].scaled_db
            if -math.inf < now + FIT <= fit and after >= max(now + RECOVERY, (now + min(fit, GOOD)) / 2):
                later[key] = after
                found.add(key)
        return found

    @staticmethod
    def _alone(side: Values, known: Iterable[str]) -> tuple[str, ...]:
        """Names of values of real numbers that are not among those."""
        left = {key: value.spec for key, value in side.values.items() if not key.startswith((INPUT, OUTPUT))}
        for key in known:
            left.pop(key, None)
        return tuple(s.name for s in left.values() if s.dtype is not None and s.dtype.is_floating_point)
