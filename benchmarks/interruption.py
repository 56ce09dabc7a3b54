"""A compile that is killed at random moments, and one that runs out of disk: what is lost, and what is broken?

    python -m benchmarks.interruption [--times 20] [--recipe examples/digits.yaml] [--seed 0]

The recipe runs undisturbed once. Then it runs into new folders, in which files of the same names stand already, and is
killed (SIGKILL) at moments drawn uniformly from the processor time of the undisturbed run, resumed, killed again, until
it ends: its artifacts are compared byte by byte. After every kill each artifact must be the old one or the final one.
Then a larger network is compiled into a full disk (a tmpfs of 10 MB where one can be mounted, else a limit on the size
of files), where an earlier compile left its artifacts.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from rich.console import Console

from benchmarks.quality.study import conclude
from graphc.measure import environment

ROOT = Path(__file__).parents[1]
OLD = b"what stood here before"
TICK = os.sysconf("SC_CLK_TCK")
DISK = 10 * 2**20
"""Bytes of the full disk."""


@dataclass
class Killed:
    """One kill.

    Attributes:
        chain: which of the folders.
        moment: processor seconds after the start.
        doing: the last thing that the compile had said.
        intact: was every artifact the old or the final one?
    """

    chain: int
    moment: float
    doing: str
    intact: bool


@dataclass
class Study:
    """What came of it.

    Attributes:
        kills: all of them.
        ended: for each folder whether its artifacts are those of the undisturbed run, with nothing left behind.
        cached: results that were taken from the cache.
        seconds: processor seconds of the undisturbed run.
    """

    kills: list[Killed] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    cached: int = 0
    seconds: float = 0.0


def command(recipe: Path, folder: Path, *options: str) -> list[str]:
    """A compile as a user starts it."""
    return [sys.executable, "-m", "graphc", "compile", str(recipe), "-o", str(folder), *options]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process that says what it does in a file."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with log.open("wb") as file:
        return subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=variables)


def spent(pid: int) -> float:
    """Processor seconds of a process that has not been waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def run(arguments: list[str], log: Path, moment: float | None = None) -> tuple[int, float]:
    """Run a process, and kill it at a moment of its processor time; its exit code and that time."""
    process = start(arguments, log)
    used = 0.0
    while process.poll() is None:
        used = spent(process.pid)
        if moment is not None and used >= moment:
            process.send_signal(signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.005)
    return process.returncode, used


def doing(log: Path) -> str:
    """The last thing that a compile said it had done, in few words."""
    lines = [line.split("  ")[0].strip() for line in log.read_text(encoding="utf-8").splitlines() if line[:1].strip()]
    return f"after {lines[-1].replace(f'{log.parent}/', '')}" if lines else "start, capture"


def artifacts(folder: Path, names: list[str]) -> dict[str, bytes]:
    """The bytes of artifacts."""
    return {name: (folder / name).read_bytes() for name in names}


def study(recipe: Path, times: int, seed: int, work: Path, console: Console) -> Study:
    """Kill a compile so many times; see the module.

    Raises:
        RuntimeError: a compile fails by itself.
    """
    draw = random.Random(seed)
    names: list[str] = yaml.safe_load(recipe.read_text(encoding="utf-8"))["emit"]
    made = Study()
    log = work / "log.txt"
    code, made.seconds = run(command(recipe, work / "undisturbed"), log)
    if code:
        raise RuntimeError(log.read_text(encoding="utf-8"))
    final = artifacts(work / "undisturbed", names)
    console.print(f"undisturbed: {made.seconds:.1f} s of processor time")
    while len(made.kills) < times:
        chain = len(made.ended)
        folder = work / f"killed-{chain}"
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(OLD)
        going = True
        while going:
            options = ["--resume"] if (folder / ".graphc.lock").exists() else []
            moment = draw.uniform(0, made.seconds) if len(made.kills) < times else None
            code, used = run(command(recipe, folder, *options), log, moment)
            made.cached += log.read_text(encoding="utf-8").count("is taken from the cache")
            if code == -signal.SIGKILL:
                found = artifacts(folder, names)
                intact = all(found[name] in (OLD, final[name]) for name in names)
                made.kills.append(Killed(chain, used, doing(log), intact))
                console.print(f"{len(made.kills)} of {times}: {made.kills[-1]}", markup=False)
            elif code:
                raise RuntimeError(log.read_text(encoding="utf-8"))
            else:
                going = False
        left = [path.name for path in folder.rglob(".*") if path.name.startswith(".graphc-") or path.suffix == ".part"]
        made.ended.append(artifacts(folder, names) == final and not left)
    return made


@contextmanager
def full_disk(work: Path) -> Iterator[tuple[Path, str, Callable[[], None]]]:
    """A folder with little room, what kind, and what a process must do before it starts."""
    folder = work / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "graphc", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode == 0:
        try:
            yield folder, "a tmpfs of 10 MB", lambda: None
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    else:
        yield folder, "files of at most 10 MB", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, DISK))


def wide(work: Path, width: int) -> Path:
    """A recipe for the network of the digits at some width, untrained."""
    path = work / f"width-{width}.yaml"
    content = {
        "model": {"target": "digits:Net", "kwargs": {"width": width}},
        "example_inputs": {"x": {"shape": [4, 1, 8, 8]}},
        "passes": [{"type": "prune-filters", "pruning_ratio": 0.25}],
        "emit": ["digits.onnx", "digits.pt2", "digits"],
        "bench": None,
        "import_from": [str(ROOT / "examples")],
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Full:
    """What came of a full disk.

    Attributes:
        kind: of disk.
        code: exit code of the compile.
        said: the first line of its error.
        intact: are the old artifacts as they were, and nothing else there?
    """

    kind: str
    code: int
    said: str
    intact: bool


def on_a_full_disk(work: Path, console: Console) -> Full:
    """Compile a small network, then one that does not fit beside it."""
    names = ["digits.onnx", "digits.pt2", "report.json"]
    with full_disk(work) as (folder, kind, limit):
        first = subprocess.run(
            command(wide(work, 32), folder), cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, check=False
        )
        if first.returncode:
            raise RuntimeError(first.stderr + first.stdout)
        before = {**artifacts(folder, names), **artifacts(folder / "digits", ["model.py", "model.safetensors"])}
        second = subprocess.run(
            command(wide(work, 512), folder), cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, check=False
        )
        after = {**artifacts(folder, names), **artifacts(folder / "digits", ["model.py", "model.safetensors"])}
        left = [path.name for path in folder.iterdir() if path.name.startswith(".graphc-")]
    console.print(second.stdout + second.stderr, markup=False)
    said = next((line for line in (second.stderr + second.stdout).splitlines() if line.startswith("error")), "")
    return Full(kind, second.returncode, said, after == before and not left)


def main() -> int:
    """Kill, compare, fill a disk; exit code 1 if anything is lost or broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", type=Path, default=ROOT / "examples" / "digits.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=160, highlight=False)
    with tempfile.TemporaryDirectory(prefix="graphc-interruption-") as folder:
        work = Path(folder)
        full = on_a_full_disk(work, console)
        made = study(options.recipe, options.times, options.seed, work, console)
    rows = [
        [str(i + 1), str(kill.chain + 1), f"{kill.moment:.1f}", kill.doing, "intact" if kill.intact else "BROKEN"]
        for i, kill in enumerate(made.kills)
    ]
    notes = [
        f"Machine: {environment()}",
        f"Seed {options.seed}; {options.recipe.name} undisturbed takes {made.seconds:.1f} s of processor time.",
        f"{len(made.kills)} kills in {len(made.ended)} folders; {made.cached} results of passes came from the cache.",
        f"Full disk ({full.kind}): exit code {full.code}, {full.said!r}.",
    ]
    claims = {
        "artifacts of every folder equal those of the undisturbed run, byte by byte, and nothing is left behind": all(
            made.ended
        ),
        "after every kill each artifact was the old or the final one": all(kill.intact for kill in made.kills),
        "a full disk is an error that says so, and the old artifacts are as they were": full.code == 2
        and full.intact
        and "room" in full.said,
    }
    columns = ["kill", "folder", "processor seconds", "what had been done", "artifacts"]
    return conclude("interruption", columns, rows, notes, claims, options.out, console)


if __name__ == "__main__":
    sys.exit(main())
