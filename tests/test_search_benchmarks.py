"""A small slice of the benchmarks of architecture search, so that none can rot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("sklearn", reason="pip install scikit-learn")
pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")

from benchmarks import darts
from benchmarks.quality import darts_digits
from benchmarks.supernets import PartialCell


def test_a_way_of_writing_is_proven() -> None:
    result = darts.written("stack and sum", "softmax")
    assert darts.good(result), result
    assert result.params[1] < result.params[0]
    assert len(darts.row(result)) == len(darts.COLUMNS)
    for wrong in (replace(result, same=False), replace(result, errors=(0.0, 1e-5))):
        assert not darts.good(wrong)


def test_the_reference_of_pc_darts_keeps_two_edges_a_node() -> None:
    torch.manual_seed(0)
    cell = PartialCell(8, 1, steps=2)
    assert len(cell.gene()) == 4
    assert all(name != "none" for name, _ in cell.gene())


def test_a_genotype_on_digits() -> None:
    setting = darts_digits.Setting(search_steps=1, train_steps=1, layers=1, steps=1)
    found = darts_digits.run(darts_digits.Cell("search-darts", 0, 0), setting)
    other = darts_digits.run(darts_digits.Cell("random", 1, 0), setting)
    assert found.genotype.startswith("Genotype(reduce=")
    assert found.genotype != other.genotype
    assert 0 <= found.accuracy <= 1
    known = {
        darts_digits.Cell(how, 0, 0): replace(found, accuracy=share)
        for how, share in (("search-darts", 0.9), ("random", 0.8))
    }
    assert all(darts_digits.claims(known).values())
    assert len(darts_digits.rows(known)[0]) == len(darts_digits.COLUMNS)
    worse = {cell: replace(outcome, accuracy=1 - outcome.accuracy) for cell, outcome in known.items()}
    assert not any(darts_digits.claims(worse).values())
