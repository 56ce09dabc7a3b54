"""Every architecture that people use: captured, cut, compared, trained, exported.

    python -m benchmarks.coverage [torchvision] [transformers] [timm] [--only WORD ...]

Each model runs in its own process with a time limit. It is captured with a dynamic batch (and
sequence); half of every exact axis is removed and the result is compared with the masked original
at another batch size; then all mixed axes are cut too, and the program must run, train one step, be
captured again and be exported to ONNX, which onnxruntime runs with the same result. What is known
of each model is kept in OUT/SUITE.jsonl: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import apart, tables
from benchmarks.examine import Finding, examine
from benchmarks.models import Case
from benchmarks.soundness import SEED
from graphc.measure.environment import environment

SUITES = ("torchvision", "transformers", "timm")
COLUMNS = "model result axes mixed error moved free params nodes seconds peak_mb note".split()


def suite(name: str, only: str = "") -> list[Case]:
    """The cases of a suite, in its own order, or the one of this name."""
    cases: list[Case] = import_module(f"benchmarks.suites.{name}").cases(only)
    return cases


def result(finding: Finding) -> str:
    """One word for a model: equal, refused, different, or the stage at which it failed."""
    if finding.refused:
        return "refused"
    if not finding.captured or math.isnan(finding.error):
        return f"failed: {finding.stage}"
    if not finding.equal:
        return "different"
    return "equal" if finding.stage == "done" else f"equal, then failed: {finding.stage}"


def run_apart(suite_name: str, name: str, limit: float, onnx: bool) -> Finding:
    """Examine one model in a process of its own; ends it after ``limit`` seconds."""
    words = [suite_name, "--one", name, *([] if onnx else ["--no-onnx"])]
    told, why = apart.run("benchmarks.coverage", words, limit)
    finding = Finding(**told) if told else Finding(name)
    if finding.stage != "done" and not finding.failed and not finding.refused:
        finding.failed = why
    return finding


def run_one(suite_name: str, name: str, onnx: bool) -> int:
    """The child's part: one line of JSON whenever a stage begins."""
    import torch

    torch.set_num_threads(1)
    (case,) = suite(suite_name, name)
    finding = examine(case, onnx, lambda now: print(json.dumps(asdict(now)), flush=True))
    return 0 if finding.done else 1


def run_suite(name: str, only: Sequence[str], options: argparse.Namespace, console: Console) -> list[Finding]:
    """All models of a suite; those already in its file are not run again."""
    file = Path(options.out) / f"{name}.jsonl"
    known = {finding.name: finding for finding in _read(file)}
    names = [case.name for case in suite(name) if not only or any(case.name.startswith(word) for word in only)]
    todo = [model for model in names if model not in known]
    with (
        Progress(console=console) as progress,
        ThreadPoolExecutor(options.jobs) as pool,
        file.open("a", encoding="utf-8") as out,
    ):
        bar = progress.add_task(name, total=len(todo))
        for finding in pool.map(lambda model: run_apart(name, model, options.limit, not options.no_onnx), todo):
            known[finding.name] = finding
            out.write(json.dumps(asdict(finding)) + "\n")
            out.flush()
            progress.update(bar, advance=1, description=f"{name}: {finding.name} {result(finding)}")
    return [known[model] for model in names]


def _read(file: Path) -> Iterator[Finding]:
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield Finding(**json.loads(line))


def row(finding: Finding) -> list[str]:
    """A line of the table."""
    params = " => ".join(f"{count / 1e6:.2f}" for count in finding.params)
    numbers = [f"{finding.error:.1e}", f"{finding.moved:.1%}", f"{finding.free:.1%}", params]
    counts = [f"{finding.nodes}", f"{sum(finding.seconds.values()):.1f}", f"{finding.peak_mb}"]
    note = re.sub(r"\S*/site-packages/", "", finding.refused or finding.failed or "; ".join(finding.unknown))
    return [finding.name, result(finding), f"{finding.exact}", f"{finding.mixed}", *numbers, *counts, note]


def totals(name: str, findings: Sequence[Finding]) -> list[str]:
    """What the table adds up to."""
    captured = [finding for finding in findings if finding.captured]
    equal = [finding for finding in captured if finding.equal]
    wide = [finding for finding in captured if finding.free >= 0.9]
    empty = [finding.name for finding in equal if finding.moved < 1e-3]
    pins = sum((Counter(finding.pins) for finding in findings), Counter[str]())
    unknown = Counter(op for finding in findings for op in finding.unknown)
    lines = [
        f"{name}: {len(findings)} models, {len(captured)} captured, {len(equal)} equal, "
        f"{sum(finding.done for finding in findings)} through every stage, "
        f"{sum(bool(finding.refused) for finding in findings)} refused",
        f"at least 90 % of the parameters on a free axis: {len(wide)} of {len(captured)} captured "
        f"({len(wide) / max(len(captured), 1):.1%})",
        f"the cut moves the output by less than 0.1 %, so that equality says little: {', '.join(empty) or 'none'}",
        f"axes pinned by a conflict: {sum(finding.conflicts for finding in findings)}",
        f"ops without a rule: {', '.join(f'{op} ({count})' for op, count in unknown.most_common()) or 'none'}",
    ]
    return lines + [f"pinned {count}: {reason}" for reason, count in pins.most_common(15)]


def write(name: str, findings: Sequence[Finding], out: Path) -> None:
    """The table as CSV and as Markdown, with the totals below."""
    tables.write(name, COLUMNS, [row(finding) for finding in findings], totals(name, findings), out)


def show(name: str, findings: Sequence[Finding], console: Console) -> None:
    """The table and the totals."""
    table = Table(*COLUMNS)
    for finding in findings:
        table.add_row(*row(finding))
    console.print(table)
    for line in totals(name, findings):
        console.print(line, markup=False)


def holds(findings: Sequence[Finding]) -> bool:
    """Is every model equal or refused, and are 99 % of the captured ones equal and 95 % widely free?"""
    captured = [finding for finding in findings if finding.captured]
    equal = sum(finding.equal for finding in captured)
    wide = sum(finding.free >= 0.9 for finding in captured)
    settled = all(finding.done or finding.refused for finding in findings)
    return settled and equal >= 0.99 * len(captured) and wide >= 0.95 * len(captured)


def main() -> int:
    """Run the suites; exit code 1 where a total does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", help=f"from {', '.join(SUITES)}; all if none is given")
    parser.add_argument("--only", nargs="+", default=(), metavar="WORD", help="models whose names begin so")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one model")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; timings want 1")
    parser.add_argument("--no-onnx", action="store_true", help="leave out the export")
    parser.add_argument("--out", default="coverage", help="folder of the tables")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if wrong := set(options.suites) - set(SUITES):
        parser.error(f"no such suite: {', '.join(sorted(wrong))}; known: {', '.join(SUITES)}")
    if options.one:
        return run_one(options.suites[0], options.one, not options.no_onnx)
    console = Console(width=200)
    console.print(environment(), f"seed {SEED}, 1 thread a model")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    good = True
    for name in options.suites or SUITES:
        findings = run_suite(name, options.only, options, console)
        write(name, findings, out)
        show(name, findings, console)
        good = good and holds(findings)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
