"""Cache: results of passes, taken where nothing that they depend on has changed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.errors import GraphError
from graphc.ir.digest import digest
from graphc.ir.lazy import is_lazy
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Data, Pass
from graphc.pipeline.evaluation import DATA, Evaluator
from graphc.pipeline.fingerprint import Mark, data_mark, mark, program_digest
from graphc.pipeline.plan import Plan
from graphc.pipeline.processes import alone
from graphc.pipeline.sources import own_code, versions
from graphc.pipeline.store import Entry, Store, remove, results

FOLDER = "cache"
"""Where a compile keeps its own results, in its output folder."""
METRIC = "metric"
FORMAT = "1"


@dataclass(frozen=True)
class Key:
    """What a result depends on before anything is read.

    Attributes:
        text: of the pass, its options, code, versions, programs, seed and device.
        known: is all of it known?
    """

    text: str
    known: bool


class Reads(Mapping[str, Data]):
    """The data of a context; remembers which the pass asked for."""

    def __init__(self, data: Mapping[str, Data], seen: set[str]) -> None:
        self.data = data
        self.seen = seen

    def __getitem__(self, name: str) -> Data:
        if name in self.data:
            self.seen.add(name)
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        return name in self.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Measures(Evaluator):
    """The evaluator of a context; remembers whether the pass took the metric."""

    def __init__(self, inner: Evaluator, seen: set[str]) -> None:
        super().__init__(inner.metric, inner.load, inner.original)
        self.known = inner.known
        self.seen = seen

    def __call__(self, program: Program) -> float:
        """The metric of a program whose tensors are final."""
        self.seen.update((METRIC, DATA))
        return super().__call__(program)

    def fresh(self, program: Program) -> float:
        """The metric of a program whose tensors still change."""
        self.seen.update((METRIC, DATA))
        return super().fresh(program)


class Cache:
    """The stores of one compile.

    Results are kept in the folder of the run, from which ``--resume`` takes them, and in the plan's ``cache_dir``,
    from which every compile does, if what the pass reads is known: see ``fingerprint.Mark``.

    Args:
        made: the plan; without ``resume`` results of earlier compiles in its output folder are removed.
    """

    def __init__(self, made: Plan) -> None:
        self.made = made
        self.original, self.data = made.original, made.data
        self.run = Store(made.output_dir / FOLDER, sure=False) if made.output_dir is not None else None
        self.shared = Store(made.cache_dir, sure=True) if made.cache_dir is not None else None
        self.digests: dict[int, tuple[Program, str]] = {}
        self.marks: dict[tuple[str, bool], Mark] = {}
        if self.run is not None and not made.resume:
            for path in results(self.run.folder):
                remove(path)

    def watched(self, item: Pass, context: Context) -> tuple[Context, set[str]]:
        """The context for a pass, and the names of what it reads from it, which fill while it runs."""
        seen: set[str] = set()
        evaluator = Measures(context.evaluator, seen) if context.evaluator is not None else None
        states = {name: context.states[name] for name in item.refers()}
        return dataclasses.replace(context, data=Reads(self.data, seen), evaluator=evaluator, states=states), seen

    def key(self, item: Pass, program: Program, context: Context) -> Key:
        """What the result of a pass depends on.

        Raises:
            GraphError: a program has something that cannot be written down.
        """
        options = mark(item)
        programs = [self.original, program, *(context.states[name] for name in item.refers())]
        words = [
            *(FORMAT, own_code(), versions(), item.type, item.title, options.text),
            *(self._digest(one) for one in programs),
            *(str(context.seed), context.device, str(sorted(self.data)), str(context.evaluator is not None)),
        ]
        return Key(digest(*words), options.known)

    def _digest(self, program: Program) -> str:
        found = self.digests.get(id(program))
        if found is None:
            found = self.digests[id(program)] = program, program_digest(program, self.original)
        return found[1]

    def find(self, key: Key) -> tuple[Store, Entry] | None:
        """The entry for a key, if there is one."""
        if self.run is not None and self.made.resume:
            entry = self.run.find(key.text, lambda name: self._mark(name, False).text)
            if entry is not None:
                return self.run, entry
        if self.shared is not None and key.known:
            entry = self.shared.find(key.text, self._known)
            if entry is not None:
                return self.shared, entry
        return None

    def _known(self, name: str) -> str | None:
        found = self._mark(name, True)
        return found.text if found.known else None

    def _mark(self, name: str, whole: bool) -> Mark:
        if (name, whole) not in self.marks:
            found = Mark("gone", False)
            if name == METRIC:
                found = mark(self.made.metric)
            elif name in self.data:
                found = data_mark(self.data[name], whole)
            self.marks[name, whole] = found
        return self.marks[name, whole]

    def keep(
        self, item: Pass, key: Key, program: Program, seconds: float, seen: Iterable[str], told: Mapping[str, Any]
    ) -> str:
        """Keep a result; why it is in fewer stores than there are, or nothing.

        Raises:
            GraphError: it cannot be kept at all.
        """
        names = sorted(seen)
        unknown = [name for name in names if self.shared is not None and self._known(name) is None]
        entry = Entry(Path(), 0, time.time(), item.title, self.made.label, seconds, {}, dict(told), item.note())
        if self.shared is not None and key.known and not unknown:
            self._put(self.shared, key, entry, names, self._known, program)
            return ""
        if self.run is not None:
            self._put(self.run, key, entry, names, lambda name: self._mark(name, False).text, program)
        if self.shared is None:
            return ""
        what = f"the data {unknown[0]!r} is too large or of a kind that cannot be known" if unknown else ""
        return what or "an option is an object that cannot be known"

    def _put(
        self,
        store: Store,
        key: Key,
        entry: Entry,
        names: Iterable[str],
        marks: Callable[[str], str | None],
        program: Program,
    ) -> None:
        reads = {name: text for name in names if (text := marks(name)) is not None}
        store.put(key.text, dataclasses.replace(entry, reads=reads), program, self.original)

    def through(
        self,
        item: Pass,
        program: Program,
        context: Context,
        make: Callable[[Context, Program | None], Program],
        tell: Callable[[str, Any], None],
    ) -> tuple[Program, Entry | None]:
        """The result of a pass, from a store or made now, and the entry that it was taken from.

        Args:
            item: the pass.
            program: that it works on.
            context: of the compile.
            make: makes the result with a context, or proves one that is there already.
            tell: told that a result is ``cached``, or ``not cached`` and why.
        """
        try:
            key = self.key(item, program, context)
        except GraphError as error:
            tell("not cached", (item.title, _reason(error)))
            return make(context, None), None
        found = self.find(key)
        if found is not None:
            try:
                made = make(context, found[0].take(found[1], self.original))
            except GraphError as error:
                tell("not cached", (item.title, _reason(error)))
            else:
                for name, facts in found[1].told.items():
                    context.record(name, facts)
                tell("cached", found[1])
                return made, found[1]
        told: dict[str, Mapping[str, Any]] = {}
        watched, seen = self.watched(item, context)

        def record(name: str, facts: Mapping[str, Any]) -> None:
            told[name] = facts
            context.record(name, facts)

        start = time.perf_counter()
        made = make(dataclasses.replace(watched, record=record), None)
        try:
            why = self.keep(item, key, made, time.perf_counter() - start, seen, told)
        except GraphError as error:
            why = _reason(error)
        if why:
            tell("not cached", (item.title, why))
        return made, None


def open_cache(made: Plan) -> Cache | None:
    """The cache of a plan; None if there is no folder, or if there are several processes, which would have to agree."""
    kept = made.output_dir is not None or made.cache_dir is not None
    kept = kept and not is_lazy(made.original.tensors())  # a result would be all weights; a pass reads less than that
    return Cache(made) if kept and made.passes and alone() else None


def _reason(error: GraphError) -> str:
    return ": ".join(filter(None, (error.what, error.where, error.why)))
