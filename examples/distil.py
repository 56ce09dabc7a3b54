"""Small models with something to teach, and their data: made-up texts, and telephone tones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining, WhisperConfig, WhisperForConditionalGeneration

TOPICS, LENGTH = 12, 24
"""What texts are about, and tokens of a text."""

OFTEN = torch.tensor([0.6, 0.2, 0.1, 0.1])
"""How often a text has each of the words of its topic."""

PADDING, CLASS, SEPARATOR, MASK = range(4)
IGNORED = -100
"""The label of a token that does not count."""

Batch = dict[str, Tensor]


def _texts(count: int, generator: torch.Generator) -> Tensor:
    """Made-up texts as tokens ``[count, LENGTH]``, each of the words of one topic."""
    topics = torch.randint(TOPICS, (count, 1), generator=generator)
    words = torch.multinomial(OFTEN.expand(count, -1), LENGTH - 2, replacement=True, generator=generator)
    ends = [torch.full((count, 1), token) for token in (CLASS, SEPARATOR)]
    return torch.cat([ends[0], MASK + 1 + topics * len(OFTEN) + words, ends[1]], 1)


def _masked(texts: Tensor, generator: torch.Generator) -> Batch:
    """Texts of several lengths with 15 % of their words hidden; the labels are these words."""
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (len(texts), 1), generator=generator)
    there = torch.arange(LENGTH) < lengths
    hidden = (torch.rand(texts.shape, generator=generator) < 0.15) & there & (texts > MASK)
    return {
        "input_ids": texts.where(there, PADDING).masked_fill(hidden, MASK),
        "attention_mask": there.long(),
        "token_type_ids": torch.zeros_like(texts),
        "labels": texts.where(hidden, IGNORED),
    }


def text_batches(batches: int = 40, size: int = 32, seed: int = 0) -> Iterator[Batch]:
    """Masked texts."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        yield _masked(_texts(size, generator), generator)


def bert(steps: int = 200) -> nn.Module:
    """A BERT of four layers, trained for a few seconds to fill in words."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=MASK + 1 + TOPICS * len(OFTEN),
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return _trained(BertForPreTraining(config), text_batches(steps), "prediction_logits", 3e-3)


DIGITS = 10
START, END, BLANK = DIGITS, DIGITS + 1, DIGITS + 2
TOKENS = 4
"""Digits of a number; with what starts or ends it there is one token more."""

KEYPAD = ((941, 1336), *((low, high) for low in (697, 770, 852) for high in (1209, 1336, 1477)))
"""The two frequencies (Hz) of each digit, 0 to 9, on a telephone (ITU-T Q.23)."""

RATE, TONE, HOP = 8000, 800, 100
"""Samples a second, samples of a digit, and samples from one frame to the next."""

MELS = 32


@cache
def _bands() -> Tensor:
    """Triangles ``[MELS, frequencies]`` on the mel scale, up to half of the rate."""
    mel = torch.linspace(0, 2595 * torch.log10(torch.tensor(1 + RATE / 2 / 700)).item(), MELS + 2)
    edges, frequencies = 700 * (10 ** (mel / 2595) - 1), torch.linspace(0, RATE / 2, 129)
    up = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(up, down).clamp(min=0)


def _heard(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Log-mel spectra ``[batch, MELS, frames]`` of dialled digits ``[batch, TOKENS]``, with noise."""
    time = torch.arange(TONE) / RATE
    tones = torch.tensor(KEYPAD, dtype=torch.float32)[digits]
    phases = torch.rand(tones.shape, generator=generator)
    waves = (2 * torch.pi * (tones[..., None] * time + phases[..., None])).sin().sum(2).flatten(1)
    waves += torch.randn(waves.shape, generator=generator) * 0.4
    spectra = torch.stft(waves, 256, HOP, window=torch.hann_window(256), return_complex=True).abs().square()
    levels = (_bands() @ spectra[..., : TOKENS * TONE // HOP]).clamp(min=1e-10).log10()
    return (levels - levels.mean((1, 2), keepdim=True)) / 2


def tone_batches(batches: int = 40, size: int = 16, seed: int = 0) -> Iterator[Batch]:
    """Dialled numbers: what is heard, the digits before each token, and the token itself as label."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        digits = torch.randint(DIGITS, (size, TOKENS), generator=generator)
        yield {
            "input_features": _heard(digits, generator),
            "decoder_input_ids": torch.cat([torch.full((size, 1), START), digits], 1),
            "labels": torch.cat([digits, torch.full((size, 1), END)], 1),
        }


def whisper(steps: int = 300) -> nn.Module:
    """A Whisper of two and four layers, trained for a few seconds to write down dialled numbers."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=BLANK + 1,
        num_mel_bins=MELS,
        d_model=48,
        encoder_layers=2,
        decoder_layers=4,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_source_positions=TOKENS * TONE // HOP // 2,
        max_target_positions=TOKENS + 1,
        bos_token_id=START,
        decoder_start_token_id=START,
        eos_token_id=END,
        pad_token_id=BLANK,
    )
    return _trained(WhisperForConditionalGeneration(config), tone_batches(steps), "logits", 3e-3)


def _trained(model: nn.Module, batches: Iterator[Batch], output: str, rate: float) -> nn.Module:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=50)
    for batch in batches:
        labels = batch.pop("labels")
        optimizer.zero_grad()
        nn.functional.cross_entropy(getattr(model(**batch), output).flatten(0, 1), labels.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warmup.step()
    return model.eval()
