"""The second example: ResNet-50 to half of its multiply-accumulates, in multiples of 8 channels.

    python -m benchmarks.resnet50 [--output-dir FOLDER]

Compiles examples/resnet50.yaml and checks that the MACs land between 49 % and 50 %, by the
polynomials and by torch's own counter.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.soundness import counted
from graphc import view
from graphc.measure.environment import environment
from graphc.pipeline.plan import plan
from graphc.pipeline.recipe import read_recipe
from graphc.pipeline.run import run

RECIPE = Path(__file__).parents[1] / "examples" / "resnet50.yaml"


def main() -> int:
    """Print what the passes did and the share of MACs; 1 if it is not where it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=None)
    given = parser.parse_args().output_dir
    console = Console(width=120, highlight=False)
    console.print(environment())
    with tempfile.TemporaryDirectory() as temporary:
        folder = given or Path(temporary)
        with view.Progress(console) as progress:
            done = run(plan(read_recipe(RECIPE), folder), progress)
        view.summary(console, done, folder)
    share = done.report["after"]["macs"] / done.report["before"]["macs"]
    by_torch = counted(done.program)[1] / counted(done.original)[1]
    console.print(f"MACs left: {share:.2%} by the polynomials, {by_torch:.2%} by torch's counter")
    return 0 if 0.49 <= share <= 0.5 and 0.49 <= by_torch <= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
