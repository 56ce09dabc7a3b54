"""Study: what is known of candidates, in a storage of Optuna's that processes and machines share.

Each process has a candidate proposed, tries it, and writes down what it found. Meanwhile it gives signs of life; one
whose signs do not change while others watch is dead, and its candidate is proposed again. No clocks are compared.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from graphc.errors import GraphError, RecipeError
from graphc.pipeline.search_sampler import Sampler, suggest
from graphc.pipeline.search_section import Search
from graphc.pipeline.search_space import Params, SearchSpace

FILE = "search.journal"
MISSED = 4
"""Who has given no sign of life for so many heartbeats is dead."""
TRIES = 3
"""A candidate in the midst of which so many processes died is not tried again."""
REPEATS = 100
"""So many proposals in a row that are known already, and there is nothing new to propose."""
ALIVE, FIGURES, REFUSED, REPEAT, DIED, INSTEAD = "alive", "figures", "refused", "repeat", "died", "instead_of"
"""What is written down of a trial."""


@dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Attributes:
        figures: of the candidate.
        misses: by how much each is above its limit, as a share of it.
        refused: why the candidate cannot be; empty if it can.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    misses: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""


@dataclass(frozen=True)
class Known:
    """A candidate that was tried.

    Attributes:
        number: of the trial.
        params: what was chosen.
        figures: of the candidate; of one above a limit perhaps those alone that show it.
        refused: why it cannot be; empty if it can.
    """

    number: int
    params: Params
    figures: Mapping[str, float]
    refused: str = ""


@dataclass(frozen=True)
class Tally:
    """How far a study is.

    Attributes:
        known: candidates that were tried, each once.
        running: how many are being tried by processes that live.
        ended: is there nothing new to propose?
    """

    known: tuple[Known, ...]
    running: int
    ended: bool


class Pulse:
    """Signs of life of a trial while it runs: a number that grows."""

    def __init__(self, trial: optuna.Trial, seconds: float) -> None:
        self.trial = trial
        self.seconds = seconds
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        count = 0
        while not self.over.wait(self.seconds):
            count += 1
            try:
                self.trial.set_user_attr(ALIVE, count)
            except UpdateFinishedTrialError:
                return  # another process took this one for dead

    def __enter__(self) -> Pulse:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.thread.join()


@dataclass
class Study:
    """One study, as one of its processes has it.

    Attributes:
        study: Optuna's.
        space: of the search.
        heartbeat: seconds between signs of life.
        objectives: figures, each with whether greater is better.
    """

    study: optuna.Study
    space: SearchSpace
    heartbeat: float
    objectives: Mapping[str, bool]
    _keys: dict[int, str] = field(default_factory=dict)
    _seen: dict[int, tuple[Any, float]] = field(default_factory=dict)

    def baseline(self, take: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Figures of the model as captured: those of the first process that takes them."""
        if "baseline" not in self.study.user_attrs:
            self.study.set_user_attr("baseline", dict(take()))
        found: dict[str, float] = self.study.user_attrs["baseline"]
        return found

    def tally(self) -> Tally:
        """How far the study is; candidates of dead processes are proposed again."""
        known: dict[str, Known] = {}
        repeats = running = 0
        for trial in self._trials():
            attributes = trial.user_attrs
            if trial.state == TrialState.RUNNING:
                running += not self._is_dead(trial)
            elif FIGURES in attributes or REFUSED in attributes:
                told = Known(trial.number, trial.params, attributes.get(FIGURES, {}), attributes.get(REFUSED, ""))
                known.setdefault(self._key(trial), told)
                repeats = 0
            elif REPEAT in attributes:
                repeats += 1
        return Tally(tuple(known.values()), running, repeats >= REPEATS or len(known) >= self.space.count)

    def advance(self, take: Callable[[Params], Outcome]) -> Known | None:
        """Have one candidate proposed and try it.

        Args:
            take: tries it.

        Returns:
            What is known then; None if that was known already, or another process tries it.
        """
        self._begin()
        trial = self.study.ask()
        with Pulse(trial, self.heartbeat):
            try:
                params = {choice.name: suggest(trial, choice) for choice in self.space.choices}
                found = self._refusal(trial, params) or take(params)
            except KeyboardInterrupt:
                self._propose_again(trial.number, trial.params, trial.user_attrs.get(DIED, 0))
                raise
            except Exception:
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                raise
        return self._told(trial, params, found)

    def _begin(self) -> None:
        """The corners of the space come first."""
        if not self._trials():
            for params in self.space.corners:
                self.study.enqueue_trial(dict(params), skip_if_exists=True)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _key(self, trial: FrozenTrial) -> str:
        if trial.number not in self._keys:
            self._keys[trial.number] = self.space.key(trial.params)
        return self._keys[trial.number]

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Has it given no sign of life for long? Then it is proposed again."""
        now, sign = time.monotonic(), trial.user_attrs.get(ALIVE)
        last, since = self._seen.setdefault(trial.number, (sign, now))
        if sign != last:
            self._seen[trial.number] = (sign, now)
        elif now - since > MISSED * self.heartbeat:
            self._propose_again(trial.number, trial.params, trial.user_attrs.get(DIED, 0) + 1)
            return True
        return False

    def _propose_again(self, number: int, params: Params, died: int) -> None:
        """Before it is closed, so that nothing is lost should this process die in between."""
        if params:
            self.study.enqueue_trial(dict(params), user_attrs={DIED: died, INSTEAD: number})
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _refusal(self, trial: optuna.Trial, params: Params) -> Outcome | None:
        """Why a candidate is not tried, if it is not: known, being tried, or deadly."""
        key, instead = self.space.key(params), trial.user_attrs.get(INSTEAD)
        for other in self._trials():
            earlier = other.number < trial.number and other.number != instead
            running = other.state == TrialState.RUNNING and len(other.params) == len(params)
            known = other.state.is_finished() and {FIGURES, REFUSED} & set(other.user_attrs)
            if earlier and (running or known) and self._key(other) == key:
                trial.set_user_attr(REPEAT, other.number)
                return Outcome()
        died = trial.user_attrs.get(DIED, 0)
        return Outcome(refused=f"{died} processes died while they tried it") if died >= TRIES else None

    def _told(self, trial: optuna.Trial, params: Params, found: Outcome) -> Known | None:
        """Write down what was found."""
        if REPEAT in trial.user_attrs:
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            return None
        try:
            if found.refused:
                trial.set_user_attr(REFUSED, found.refused)
            else:
                trial.set_user_attr(FIGURES, dict(found.figures))
                for kind, miss in found.misses.items():
                    trial.set_constraint(kind, miss)
        except UpdateFinishedTrialError:
            return None  # another process took this one for dead, and the candidate is proposed again
        values = [found.figures.get(name, -math.inf if up else math.inf) for name, up in self.objectives.items()]
        if found.refused:
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self.study.tell(trial, values, skip_if_finished=True)
        return Known(trial.number, params, found.figures, found.refused)


def open_study(
    options: Search, folder: Path, name: str, objectives: Mapping[str, bool], seed: int, resume: bool
) -> optuna.Study:
    """A new study, or one to go on with.

    Args:
        options: of the search.
        folder: where the file of the study is, if it is in no database.
        name: of the study; another recipe has another.
        objectives: figures, each with whether greater is better.
        seed: of the sampler.
        resume: go on with the study that is there, alone or beside other processes.

    Raises:
        GraphError: the storage cannot be used, or it has a study and none is to be gone on with.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = "search.storage" if options.storage else str(folder / FILE)
    try:
        storage: BaseStorage = RDBStorage(options.storage) if options.storage else _journal(folder / FILE)
        names = optuna.get_all_study_names(storage)
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise RecipeError("cannot open the storage of the search", where=place, why=why) from error
    if name in names and not resume:
        hint = "--resume goes on with it, also beside processes that still run; or give another folder (-o)"
        raise GraphError("this search was begun before", where=place, hint=hint)
    if names and name not in names and options.storage is None:
        hint = "give another folder (-o)"
        raise GraphError("the study that is there is one of another recipe", where=place, hint=hint)
    ways = optuna.study.StudyDirection
    directions = [ways.MAXIMIZE if up else ways.MINIMIZE for up in objectives.values()]
    return optuna.create_study(
        storage=storage, study_name=name, load_if_exists=True, directions=directions, sampler=Sampler(options, seed)
    )


def _journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))
