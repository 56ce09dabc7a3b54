"""Token files: windows of ids, in an order that the seed decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import Finetune

import graphc
from graphc.pipeline.batches import batches
from tests import models


def test_what_is_written_comes_back_in_windows(tmp_path: Path) -> None:
    path = tmp_path / "ids.bin"
    assert graphc.write_tokens(path, [range(10), [], range(10, 33)]) == 33
    found = list(graphc.TokenBatches(path, tokens=5, batch=4, shuffle=False, mask=True))
    assert [b["input_ids"].shape for b in found] == [(4, 5), (2, 5)]
    assert torch.equal(torch.cat([b["input_ids"] for b in found]).flatten(), torch.arange(30))
    assert torch.equal(found[0]["labels"], found[0]["input_ids"])
    assert bool(found[0]["attention_mask"].all())


def test_the_seed_decides_the_order_and_every_window_comes_once(tmp_path: Path) -> None:
    graphc.write_tokens(tmp_path / "ids.bin", [range(60)], "uint32")
    data = graphc.TokenBatches(tmp_path / "ids.bin", 5, 5, "uint32")
    assert len(data) == 3
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(torch.cat([b["input_ids"] for b in data]))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[2].flatten().sort().values, torch.arange(60))


def test_a_decoder_is_trained_on_a_token_file(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="training needs the extra `train`")
    graphc.write_tokens(tmp_path / "ids.bin", [torch.arange(400).remainder(61).tolist()])
    model, inputs = models.tiny_llama()
    done = graphc.compile(
        graphc.capture(model, (), inputs),
        passes=[Finetune(epochs=2, learning_rate=0.01, losses=[{"type": "cross-entropy", "shift": True}])],
        data={name: graphc.TokenBatches(tmp_path / "ids.bin", 11, 4) for name in ("train", "eval")},
        metric="perplexity",
    )
    assert done.report["after"]["metric"] < done.report["before"]["metric"] / 1.5


def test_windows_of_a_length_that_was_not_captured_are_refused(tmp_path: Path) -> None:
    graphc.write_tokens(tmp_path / "ids.bin", [range(60)])
    model, inputs = models.tiny_llama()
    program = graphc.capture(model, (), inputs)
    with pytest.raises(graphc.GraphError, match="does not fit the input") as caught:
        list(batches(program, graphc.TokenBatches(tmp_path / "ids.bin", 12, 4)))
    assert "capture with the dim dynamic that varies" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": 100}, "too short"),
        ({"tokens": 1}, "cannot be"),
        ({"dtype": "float32"}, "cannot be float32"),
        ({"path": "nowhere.bin"}, "cannot read"),
    ],
)
def test_wrong_files_and_options_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    graphc.write_tokens(tmp_path / "ids.bin", [range(60)])
    with pytest.raises(graphc.GraphError, match=words):
        graphc.TokenBatches(**{"path": tmp_path / "ids.bin", "tokens": 5, "batch": 4, **options})


def test_an_id_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(graphc.GraphError, match="70000 does not fit uint16"):
        graphc.write_tokens(tmp_path / "ids.bin", [[1, 70000]])
    assert list(tmp_path.iterdir()) == []
