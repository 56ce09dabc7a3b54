"""Students of known families are the models of Hugging Face of their shape."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")

from benchmarks import students


def test_distilbert_of_a_bert_is_the_model_of_transformers() -> None:
    case = students.distilbert(
        vocab_size=101,
        hidden_size=32,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
    )
    found = students.prove(case)
    assert found.equal, found
    assert found.tensors == 4 + 3 * 16
    assert found.before - found.after == 2 * (4 * 33 * 32 + 33 * 48 + 49 * 32 + 4 * 32) + 2 * 32 + 33 * 32


def test_distil_whisper_of_a_whisper_is_the_model_of_transformers() -> None:
    case = students.distil_whisper(
        vocab_size=103,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=2,
        decoder_layers=4,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=30,
        max_target_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    found = students.prove(case)
    assert found.equal, found
    assert found.before - found.after == 2 * (2 * (4 * 32 * 32 + 3 * 32) + 33 * 48 + 49 * 32 + 6 * 32)


def test_claims_fail_where_a_figure_is_another() -> None:
    good = students.Result("x", 10, 6, 6, 3, 0.0, 1e-6, 1.0)
    assert list(students.claims([good], [(10, 6)]).values()) == [True, True]
    bad = students.Result("x", 10, 6, 6, 3, 0.0, 1e-3, 1.0)
    assert list(students.claims([bad], [(10, 5)]).values()) == [False, False]
