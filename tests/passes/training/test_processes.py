"""Several processes train as one does, and only the first writes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("accelerate", reason="training needs the extra `train`")
ROOT = Path(__file__).parents[3]
RECIPE = {
    "model": {"target": "tests.passes.training.tasks:Classifier", "kwargs": {"norm": False}},
    "example_inputs": {"x": {"shape": [4, 6]}},
    "data": {
        "train": {"target": "tests.passes.training.tasks:train_batches", "kwargs": {"batch": 9}},
        "eval": {"target": "tests.passes.training.tasks:eval_batches"},
    },
    "metric": "accuracy",
    "passes": [
        {
            "type": "distill",
            "steps": 20,
            "learning_rate": 0.01,
            "accumulate": 2,
            "max_grad_norm": 0.5,
            "losses": [{"type": "kl", "weight": 0.5}, {"type": "cross-entropy"}, {"type": "hint", "student": "first"}],
            "during": [{"type": "gradual-sparsity", "sparsity": 0.5, "frequency": 4}],
        }
    ],
    "emit": ["net.pt2"],
    "bench": None,
}


def losses(folder: Path) -> list[float]:
    text = (folder / "training" / "distill.csv").read_text(encoding="utf-8")
    return [float(row["loss"]) for row in csv.DictReader(text.splitlines()) if row["loss"]]


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """64 samples in batches of 9: the shares of the processes differ, 5 and 4."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "graphc"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name, start in (("one", ["-m", "graphc"]), ("two", launch)):
        command = [sys.executable, *start, "compile", str(recipe), "-o", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
        assert done.stdout.count("net.pt2") == 2, "only the first process tells"
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20
    assert one[-1] < one[0]
    assert two == pytest.approx(one, rel=1e-5)
    assert (tmp_path / "two" / "report.json").exists()
    assert (tmp_path / "two" / "net.pt2").exists()
