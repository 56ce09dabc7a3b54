"""The real architectures of the proofs: torchvision's own, transformers at tiny sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """A model with its example inputs and the sizes at which it is compared."""

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Mapping[str, torch.Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    other: Mapping[str, int]


VISION = """
resnet50 mobilenet_v3_small densenet121 efficientnet_b0 resnext50_32x4d shufflenet_v2_x1_0 vit_b_16 swin_t convnext_tiny
""".split()

TEXT = ("bert", "gpt2", "llama", "vit")


def cases() -> list[Case]:
    """All of them; transformers with both attention implementations."""
    return [vision(name) for name in VISION] + [
        transformer(name, attention) for name in TEXT for attention in ("sdpa", "eager")
    ]


def vision(name: str) -> Case:
    """A torchvision classifier, untrained, at a small image size where it allows one."""
    import torchvision

    torch.manual_seed(0)
    size = 224 if name.startswith("vit") else 96
    inputs = {"x": torch.randn(3, 3, size, size)}
    return Case(
        name, lambda: getattr(torchvision.models, name)(weights=None), inputs, {"x": {0: "batch"}}, {"batch": 5}
    )


def transformer(name: str, attention: str) -> Case:
    """A transformers model at a tiny size."""
    import transformers

    torch.manual_seed(0)
    common = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 144}
    both = {0: "batch", 1: "sequence"}
    ids = torch.randint(0, 100, (3, 7))
    build: Any
    if name == "vit":
        config = transformers.ViTConfig(image_size=32, patch_size=8, **common)
        build, inputs, dynamic = (
            transformers.ViTForImageClassification,
            {"pixel_values": torch.randn(3, 3, 32, 32)},
            {0: "batch"},
        )
    elif name == "bert":
        config = transformers.BertConfig(vocab_size=100, **common)
        build, inputs, dynamic = (
            transformers.BertModel,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            both,
        )
    elif name == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=100, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True
        )
        build, inputs, dynamic = transformers.GPT2LMHeadModel, {"input_ids": ids}, both
    else:
        config = transformers.LlamaConfig(vocab_size=100, num_key_value_heads=2, **common)
        build, inputs, dynamic = transformers.LlamaForCausalLM, {"input_ids": ids}, both
    config._attn_implementation = attention
    other = {"batch": 5, **({"sequence": 11} if dynamic is both else {})}
    return Case(f"{name} ({attention})", lambda: build(config), inputs, dict.fromkeys(inputs, dynamic), other)


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Batch-norm statistics and constant parameters (zero heads, tiny layer scales) made random.

    Matrices that are drawn too small for their inputs are scaled to keep the size of what they multiply.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif name.endswith("running_mean"):
                value.normal_(0, 1, generator=generator)
            elif isinstance(value, torch.nn.Parameter) and value.numel() > 1:
                deviation, fan = float(value.std()), value[0].numel()
                if fan == 1 and deviation < 1e-2:
                    value.normal_(0.5, 0.3, generator=generator)
                elif fan > 1 and deviation < 1e-6:
                    value.normal_(0, fan**-0.5, generator=generator)
                elif fan > 1 and deviation < 0.5 * fan**-0.5:
                    value.mul_(fan**-0.5 / deviation)
    return model
