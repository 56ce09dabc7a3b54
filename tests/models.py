"""Small nets that between them have everything the compiler must cope with."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphc


class Residual(nn.Module):
    """Convolutions, batch norm, an in-place relu, a residual sum, a linear head."""

    def __init__(self, width: int = 12, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 1)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        y = self.conv2(self.act(self.norm1(self.conv1(x))))
        y += x
        return self.head(self.drop(self.act(y).mean((2, 3))))


class Grouped(nn.Module):
    """A grouped, a depthwise and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 18, 3, padding=1, groups=3)
        self.up = nn.ConvTranspose2d(18, 10, 2, stride=2)
        self.last = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depthwise(self.expand(x)))
        return self.last(F.relu(self.up(F.relu(self.grouped(x)))))


class Concat(nn.Module):
    """Two branches concatenated, chunked, and flattened with literal sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 1)
        self.right = nn.Conv2d(3, 6, 1)
        self.mix = nn.Conv2d(14, 20, 1)
        self.head = nn.Linear(10 * 7 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        first, second = self.mix(x).split([10, 10], 1)
        return self.head((first * second).view(x.shape[0], 10 * 7 * 9))


class Attention(nn.Module):
    """Self-attention whose head count is a literal, and times the batch in a view."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        q = q.view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = k.view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        v = v.view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.reshape(batch * self.heads, length, self.head_dim).view(batch, self.heads, length, self.head_dim)
        return self.out(y.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int = 24, heads: int = 4, head_dim: int = 5, hidden: int = 40) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, head_dim)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Token and position embeddings, two blocks, a head tied to the token embedding."""

    def __init__(self, tied: bool = True, vocabulary: int = 37, width: int = 24) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.register_buffer("positions", torch.randn(16, width), persistent=False)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class InPlace(nn.Module):
    """A chain of in-place ops and assignments to slices of a tensor that is used later."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y.mul_(2).add_(1).relu_()
        y[:, 2:5] = y[:, 2:5].sigmoid()
        y[:, 0] = 0.5
        y[:, -1] *= 3
        return self.second(y)


class Ruleless(nn.Module):
    """Has an op that no rule knows, between two layers that could be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(6, 9)
        self.free = nn.Linear(9, 11)
        self.after = nn.Linear(11, 9)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.special.i1e(self.before(x))
        return self.after(self.free(y).relu()) * torch.linalg.det(y.reshape(-1, 3, 3))[:, None]


class Nested(nn.Module):
    """Inputs in a dict and a list, and outputs in a dict, with a tuple in it."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 8)
        self.right = nn.Linear(5, 8)

    def forward(self, features: dict[str, Tensor], *, extra: list[Tensor], scale: float = 2.0) -> dict[str, Any]:
        x = self.left(features["a"]) + self.right(features["b"])
        y = extra[0] * scale + extra[1]
        return {"sum": x, "parts": (x + y, y)}


class Norms(nn.Module):
    """Expand, group norm, layer norm over a literal shape, split with sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 12)
        self.gain = nn.Parameter(torch.rand(1, 12))
        self.norm = nn.LayerNorm(12)
        self.down = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.up(x)) * self.gain.expand(x.shape[0], 12)
        a, b, _ = y.split([5, 5, 2], -1)
        return self.down(a * b)


def image(batch: int = 4, height: int = 7, width: int = 9) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def tokens(batch: int = 3, length: int = 11, vocabulary: int = 37) -> Tensor:
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


def vectors(batch: int = 4, width: int = 6) -> Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(1))


def nested() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of ``Nested`` as (args, kwargs)."""
    return ({"a": vectors(4, 6), "b": vectors(4, 5)},), {"extra": [vectors(4, 8), vectors(4, 8)]}


def seeded(build: type[nn.Module] | Any, *args: Any, **kwargs: Any) -> nn.Module:
    """A net in evaluation mode with the same random weights every time."""
    torch.manual_seed(0)
    return randomise(build(*args, **kwargs).eval())


def randomise(model: nn.Module) -> nn.Module:
    """Draw statistics of norms, and whatever is all zeros or all ones, at random."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in OrderedDict([*model.named_parameters(), *model.named_buffers()]).items():
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name.endswith("running_mean") or bool((tensor == tensor.flatten()[0]).all()):
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model


def tiny_bert(attention: str = "sdpa") -> tuple[nn.Module, dict[str, Tensor]]:
    """A two-layer BERT classifier and its inputs."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=44,
        max_position_embeddings=20,
        num_labels=5,
        attn_implementation=attention,
    )
    ids = tokens(3, 11, 61)
    return seeded(lambda: BertForSequenceClassification(config)), {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


def tiny_gpt2(attention: str = "sdpa") -> tuple[nn.Module, dict[str, Tensor]]:
    """A two-layer GPT-2 with its tied head, and its inputs."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=61,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=44,
        n_positions=20,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    return seeded(lambda: GPT2LMHeadModel(config)), {"input_ids": tokens(3, 11, 61)}


def tiny_llama(attention: str = "sdpa") -> tuple[nn.Module, dict[str, Tensor]]:
    """A two-layer Llama with grouped-query attention, and its inputs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        intermediate_size=44,
        max_position_embeddings=20,
        attn_implementation=attention,
    )
    return seeded(lambda: LlamaForCausalLM(config)), {"input_ids": tokens(3, 11, 61)}


def residual() -> graphc.Program:
    return graphc.capture(seeded(Residual), (image(),))


def transformer(tied: bool = True) -> graphc.Program:
    return graphc.capture(seeded(Transformer, tied), (tokens(),), dynamic={"ids": {0: "batch", 1: "seq"}})


def quantised(program: graphc.Program, scheme: str = "W8A8", **options: Any) -> graphc.Program:
    """The program with integers, calibrated with its example inputs."""
    from graphc.passes.quantize.quantize import Quantize

    from graphc.pipeline.base import Context

    args, kwargs = program.example()
    context = Context(original=program, data={"calibration": lambda: [kwargs or args[0]]})
    chosen = {"scheme": scheme, "target": "onnxruntime-cpu", "smooth": 0, **options}
    return Quantize(**chosen).run(program, context)
