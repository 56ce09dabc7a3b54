"""Pass: the contract that every transformation keeps, and the context it runs in.

A pass is a frozen dataclass. Its fields are its options in Python, in YAML, in
``graphc passes NAME`` and in the JSON schema; each is checked when the pass is made.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from graphc.errors import RecipeError, nearest
from graphc.ir.contract import Contract
from graphc.ir.program import Program
from graphc.pipeline.checked import Checked, make
from graphc.pipeline.evaluation import Evaluator

GROUP = "graphc.passes"
COSTS = ("macs", "params", "bytes")
"""What a program costs, by the names that constraints have."""

Data = Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class Context:
    """What a pass may use besides the program.

    Attributes:
        original: the program as captured: teacher and reference.
        data: loaders by name (``train``, ``calibration``, ``eval``).
        device: where training and calibration run.
        seed: for everything random.
        run_dir: where a pass may keep what it needs to go on; None when nothing is to be written.
        progress: called with (done, total, text) during long work.
        evaluator: takes the recipe's metric on its ``eval`` data; None without one of the two.
        states: programs after earlier passes, by the name of the pass, for those that ask (``Pass.refers``).
        resume: go on from what an interrupted run left in ``run_dir``.
        record: told (name of the pass, facts for the report) by passes with more to say than their result.
    """

    original: Program
    data: Mapping[str, Data] = field(default_factory=dict)
    device: str = "cpu"
    seed: int = 0
    run_dir: Path | None = None
    progress: Callable[[int, int, str], None] = lambda done, total, text: None
    evaluator: Evaluator | None = None
    states: Mapping[str, Program] = field(default_factory=dict)
    resume: bool = False
    record: Callable[[str, Mapping[str, Any]], None] = lambda name, facts: None

    def loader(self, name: str) -> Iterable[Any]:
        """The batches of one of the data sets.

        Raises:
            RecipeError: the recipe has no data of this name.
        """
        if name not in self.data:
            raise missing_data("this pass", name, self.data)
        return self.data[name]()

    def within(self, name: str) -> Context:
        """A context for a part of a pass: what it keeps in ``run_dir`` is apart from that of other parts."""
        return replace(self, run_dir=self.run_dir / name if self.run_dir is not None else None)


def missing_data(who: str, name: str, known: Iterable[str], why: str = "") -> RecipeError:
    """That somebody needs data which there is not, and how to give it."""
    hint = f"add `data: {{{name}: {{target: 'package.module:callable'}}}}`; {nearest(name, known)}"
    return RecipeError(f"{who} needs data called {name!r}", where="data", why=why, hint=hint)


def _printable(name: str | None) -> str | None:
    """A name goes into reports and into the record of every file, where control characters have no place."""
    if name is not None and not name.isprintable():
        raise ValueError("a name has printable characters only")
    return name


@dataclass(frozen=True, kw_only=True)
class Pass(Checked, abc.ABC):
    """One transformation of a Program.

    Subclasses are frozen dataclasses with ``type`` set; they implement ``run``, and may check the
    program before (``requires``) and the result after (``ensures``).
    """

    kind: ClassVar[str] = "pass"
    whole: ClassVar[bool] = False
    """Is what the pass compresses there or not, as layers are, so that it has no ratio?"""
    trains: ClassVar[bool] = False
    """Does it change weights by training, so that the metric is worth taking after it?"""
    name: Annotated[str | None, AfterValidator(_printable)] = None

    @property
    def title(self) -> str:
        """The name in reports: the pass's own, or its type."""
        return self.name or self.type

    def needs_data(self) -> Mapping[str, str]:
        """The data that the pass reads by name, each with what it is for; checked before anything runs."""
        return {}

    def refers(self) -> Iterable[str]:
        """Names of earlier passes whose result this one looks at (a teacher); checked before anything runs."""
        return ()

    def least_opset(self) -> int:
        """The ONNX operator set that what the pass makes needs at least; checked before anything runs."""
        return 0

    def needs_memory(self) -> str:
        """Why the pass must have all weights in memory; empty if it reads none, or one after the other.

        Only passes that say so run where weights stay in their files (``low_memory``).
        """
        return f"{self.type} may hold many weights at once"

    def promises(self, contract: Contract) -> Contract:
        """The contract of the result, given that of the program: the same, unless the pass changes it and says so here.

        Asked of all passes in their order before the first one runs, and held against what comes of each.

        Raises:
            GraphError: there is no such result.
        """
        return contract

    def requires(self, program: Program) -> None:
        """Raise a GraphError if the program is not one that this pass can work on."""

    @abc.abstractmethod
    def run(self, program: Program, context: Context) -> Program:
        """The transformed program; the given one stays as it is."""

    def ensures(self, before: Program, after: Program) -> None:
        """Raise a GraphError if what the pass promised did not happen."""

    def probes(self, program: Program, context: Context) -> Mapping[str, Callable[[float], Program]]:
        """What the pass would compress, one by one: for each item the program with a share of it gone."""
        return {}

    def reduces(self) -> Collection[str]:
        """What may become less by the pass; a search drops a candidate before passes that cannot help it."""
        return COSTS

    def offers(self, program: Program) -> Mapping[str, Any]:
        """What a search may choose by name in the pass's options: values, the first of which is as it is, or a range.

        None stands for values that the search must give.
        """
        return {}

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """What the pass has to say of its result for the report, JSON-able; lines under ``says`` are shown."""
        return {}

    def help(self) -> str:
        """The command that lists the options."""
        return f"see `graphc passes {self.type}`"

    def note(self) -> str:
        """The pass as one line of history: its name, type and the options that are not at their default."""
        return f"{self.name}: {super().note()}" if self.name else super().note()


def known_passes() -> dict[str, type[Pass]]:
    """All installed passes by type, from the entry-point group ``graphc.passes``.

    Raises:
        RecipeError: an entry point does not load, or is not a pass of that type.
    """
    found: dict[str, type[Pass]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        found[point.name] = _load(point)
    return found


def find_pass(kind: str) -> type[Pass]:
    """The pass of this type.

    Raises:
        RecipeError: no such pass is installed; names the nearest ones.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if kind not in points:
        raise RecipeError(f"no pass is called {kind!r}", where="passes", hint=nearest(kind, points))
    return _load(points[kind])


def _load(point: Any) -> type[Pass]:
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        hint = "the package that provides it is broken or not installed; reinstall it"
        raise RecipeError(
            f"the pass {point.name!r} cannot be loaded", where=point.value, why=str(error), hint=hint
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Pass) and kind.type == point.name):
        why = f"{point.value} is not a subclass of graphc.Pass with type = {point.name!r}"
        raise RecipeError(f"the pass {point.name!r} cannot be used", where=point.value, why=why)
    return kind


def make_pass(spec: Mapping[str, Any], where: str) -> Pass:
    """A pass from its YAML form ``{type: prune-heads, pruning_ratio: 0.5}``.

    Raises:
        RecipeError: the type or an option is not known, or a value is wrong.
    """
    return make(spec, find_pass, where, Pass.kind, "{type: prune-heads, ...}")
