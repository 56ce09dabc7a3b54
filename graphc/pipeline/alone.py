"""Alone: what one entrant of a benchmark takes to load, and how much memory, in a process of its own.

As a module it is that process: it reads a request as JSON from standard input, and prints what it found as the last
line of standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from graphc.ir.masks import make_permanent
from graphc.measure.memory import peak_bytes, restart_peak
from graphc.measure.on_device import on_device
from graphc.measure.onnx_file import check_onnx
from graphc.measure.runnable import bind_session, make_session, prepare, provider_of, session_options
from graphc.pipeline.entrants import Entrant
from graphc.pipeline.model import Model
from graphc.pipeline.recipe import read_recipe

AGAIN = 2
"""Runs after the first one."""


@dataclass(frozen=True)
class Alone:
    """What was found.

    Attributes:
        load_ms: until the model is there: a session of onnxruntime, a program read from its files, or a recipe's model
            made and captured; libraries are imported and files have been read before.
        first_ms: the first run, in which torch.compile compiles.
        memory_bytes: what the process grew by at its largest, with the model, its inputs and three runs.
        device_bytes: the largest that was in use on the device; None on a processor.
        error: why there is none of all this; empty if there is.
    """

    load_ms: float | None = None
    first_ms: float | None = None
    memory_bytes: int | None = None
    device_bytes: int | None = None
    error: str = ""


def run_alone(entrant: Entrant, sizes: Mapping[str, int], device: str, threads: int) -> Alone:
    """Start the process and wait for what it finds; that it fails is told, as the times hold without it."""
    written = isinstance(entrant.what, Path)
    request = {
        "path": str(entrant.what if written else entrant.model.path),
        "recipe": not written and entrant.model.recipe is not None,
        "backend": entrant.backend,
        "sizes": entrant.own(sizes),
        "device": device,
        "threads": threads,
        "import_from": sys.path,
    }
    command = [sys.executable, "-m", "graphc.pipeline.alone"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = next(reversed(done.stderr.strip().splitlines()), "")
        return Alone(error=f"its own process ended with code {done.returncode}: {last}")
    return Alone(**json.loads(done.stdout.splitlines()[-1]))


def _measured(request: Mapping[str, Any]) -> Alone:
    device, threads, path = request["device"], request["threads"], Path(request["path"])
    torch.set_num_threads(threads)
    if path.suffix == ".onnx":
        check_onnx(path)
    recipe = read_recipe(path) if request["recipe"] else None
    before, free = restart_peak(), _free(device)
    begin = time.perf_counter()
    if path.suffix == ".onnx":
        session = make_session(path, session_options(threads), provider_of(device))
        loaded = time.perf_counter()
        runnable = bind_session(session, path.name, None, request["sizes"], device, 0)
    else:
        program = on_device(make_permanent(Model(path, recipe).program()), device)
        loaded = time.perf_counter()
        runnable = prepare(program, None, request["sizes"], device, request["backend"], threads, 0)
    start = time.perf_counter()
    with torch.inference_mode():
        runnable.run()
        first = time.perf_counter()
        for _ in range(AGAIN):
            runnable.run()
    used = None if free is None else max(0, free - (_free(device) or 0))
    return Alone(1000 * (loaded - begin), 1000 * (first - start), max(0, peak_bytes() - before), used)


def _free(device: str) -> int | None:
    """Bytes that are free on a device."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else None


def main() -> None:
    """The process."""
    request = json.load(sys.stdin)
    sys.path += [entry for entry in request["import_from"] if entry not in sys.path]
    print("\n" + json.dumps(asdict(_measured(request))))


if __name__ == "__main__":
    main()
