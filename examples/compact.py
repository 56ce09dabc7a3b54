"""Two small transformers with something to lose: one sees scikit-learn's digits, one writes Python's documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pydoc_data.topics import topics

import digits
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

CHARACTERS, LENGTH = 128, 32
"""Of ASCII, and those of a text."""

Batch = dict[str, Tensor]


def vit(epochs: int = 25) -> nn.Module:
    """A vision transformer of four layers for patches of 2 x 2, trained for a few seconds."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=10,
    )
    batches = (batch for _ in range(epochs) for batch in image_batches())
    return _trained(ViTForImageClassification(config), batches, shift=0)


def image_batches() -> Iterator[Batch]:
    """Images ``[batch, 1, 8, 8]`` and their digits, for training."""
    yield from _named(digits.train_batches())


def image_eval_batches() -> Iterator[Batch]:
    """Images and their digits, for evaluation."""
    yield from _named(digits.eval_batches())


def _named(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[Batch]:
    for images, labels in batches:
        yield {"pixel_values": images, "labels": labels}


@cache
def _texts() -> Tensor:
    """Characters ``[texts, LENGTH]`` of what Python has about its own syntax."""
    text = "\n".join(topics.values()).encode("ascii", "ignore")
    return torch.tensor(list(text)).unfold(0, LENGTH, LENGTH)


def text_batches(batches: int = 100, size: int = 32, seed: int = 0, held_out: bool = False) -> Iterator[Batch]:
    """Texts, whose labels they are themselves; every tenth text is kept for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    texts = _texts()
    texts = texts[(torch.arange(len(texts)) % 10 == 0) == held_out]
    for _ in range(batches):
        ids = texts[torch.randint(len(texts), (size,), generator=generator)]
        yield {"input_ids": ids, "labels": ids}


def llama(steps: int = 300) -> nn.Module:
    """A Llama of four layers with grouped queries, trained for a few seconds to say what comes next."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=CHARACTERS,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=160,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    return _trained(LlamaForCausalLM(config), text_batches(steps), shift=1)


def _trained(model: nn.Module, batches: Iterable[Batch], shift: int) -> nn.Module:
    """Trained to give the labels that are ``shift`` tokens further on."""
    batches = list(batches)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, len(batches))
    for batch in batches:
        labels = batch.pop("labels")
        logits = model(**batch).logits
        if shift:
            logits, labels = logits[:, :-shift], labels[:, shift:]
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
