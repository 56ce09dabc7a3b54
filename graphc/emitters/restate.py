"""Attributes that repeat sizes: of torch's layers, of attention modules, of a Hugging Face config."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from graphc.ir.graph import module_path
from graphc.ir.program import Program

aten = torch.ops.aten

Rename = Callable[[str], "str | None"]

HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
HEAD_DIMS = ("attention_head_size", "head_dim", "head_size", "dim_per_head")
WIDTHS = ("all_head_size", "embed_dim", "split_size", "inner_dim", "attn_dim", "dim", "hidden_size")
KEYS = ("k_proj", "key", "k_lin", "k")
SIZES = ("hidden_size", "embedding_size", "intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim", "vocab_size")
"""Fields of a config that are sizes of parameters, in the words of Hugging Face's models."""
UNSAID = ("n_inner", "intermediate_size")
"""Such fields may be None, which means four times the hidden size."""


def restate(module: nn.Module, original: nn.Module, program: Program, rename: Rename) -> None:
    """Make attributes say the sizes that the tensors now have.

    Args:
        module: the copy, already filled with the program's tensors; changed in place.
        original: what it is a copy of.
        rename: a name of the original as it is in the copy, None if it is gone.
    """
    users = _users(program, rename)
    for path, layer in module.named_modules():
        _restate_layer(layer, users.get(f"{path}.weight" if path else "weight"))
    heads = _restate_attention(module, program, rename)
    config = getattr(module, "config", None)
    if config is not None and not isinstance(config, dict):
        _restate_config(config, heads)
        _restate_sizes(config, module, original, rename)
    _restate_sizes(module, module, original, rename)


def _users(program: Program, rename: Rename) -> dict[str, Node]:
    """For each tensor, by its name in the copy, the first op that uses it."""
    found: dict[str, Node] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr" and node.users:
            name = rename(str(node.target))
            if name is not None:
                found[name] = next(iter(node.users))
    return found


def _restate_layer(layer: nn.Module, user: Node | None) -> None:
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.MultiheadAttention):
        _restate_multihead(layer)
    elif not isinstance(weight, torch.Tensor):
        return
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.modules.conv._ConvNd):
        layer.groups = _argument(user, 6, layer.groups)
        first, second = weight.shape[0], weight.shape[1] * layer.groups
        layer.in_channels, layer.out_channels = (first, second) if layer.transposed else (second, first)
    elif isinstance(layer, (nn.modules.batchnorm._NormBase)):
        layer.num_features = weight.shape[0]
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels, layer.num_groups = weight.shape[0], _argument(user, 1, layer.num_groups)
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = weight.shape
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = weight.shape[0]
    elif hasattr(layer, "nx") and hasattr(layer, "nf"):
        layer.nx, layer.nf = weight.shape  # type: ignore[assignment] # Hugging Face's Conv1D keeps its sizes as ints


def _argument(user: Node | None, index: int, default: int) -> int:
    value = user.args[index] if user is not None and len(user.args) > index else default
    return value if isinstance(value, int) else default


def _restate_multihead(layer: nn.MultiheadAttention) -> None:
    """The heads keep their width; torch's own attention has no way to say that there are fewer wide ones."""
    layer.embed_dim = layer.out_proj.weight.shape[0]
    layer.out_proj.out_features, layer.out_proj.in_features = layer.out_proj.weight.shape
    if layer._qkv_same_embed_dim:
        layer.kdim = layer.vdim = layer.embed_dim
    else:
        layer.kdim, layer.vdim = layer.k_proj_weight.shape[1], layer.v_proj_weight.shape[1]
    if layer.embed_dim % layer.head_dim == 0 and layer.embed_dim != layer.head_dim * layer.num_heads:
        layer.num_heads = layer.embed_dim // layer.head_dim
    layer.head_dim = layer.embed_dim // layer.num_heads


def _restate_attention(module: nn.Module, program: Program, rename: Rename) -> list[dict[str, int]]:
    """Attributes of every module whose code computes an attention; what each says, for the config."""
    said: list[dict[str, int]] = []
    for node in program.graph.nodes:
        shape = _query_shape(node)
        path = rename(module_path(node)) if shape is not None else None
        if shape is None or path is None or path not in dict(module.named_modules()):
            continue
        said.append(_restate_heads(module.get_submodule(path), *shape))
    return said


def _query_shape(node: Node) -> tuple[int, int] | None:
    """(heads, head width) of the queries of an attention; None if the node is none."""
    if node.target is aten.scaled_dot_product_attention.default:
        query = node.args[0]
    elif node.target in (aten.softmax.int, aten._softmax.default):
        link: Any = node.args[0]
        while isinstance(link, Node) and link.op == "call_function" and link.target is not aten.matmul.default:
            link = link.args[0] if link.args else None
        query = link.args[0] if isinstance(link, Node) and link.args else None
    else:
        return None
    value = query.meta.get("val") if isinstance(query, Node) else None
    if not isinstance(value, torch.Tensor) or value.dim() != 4:
        return None
    heads, width = value.shape[1], value.shape[3]
    return (heads, width) if isinstance(heads, int) and isinstance(width, int) else None


def _restate_heads(layer: nn.Module, heads: int, width: int) -> dict[str, int]:
    config = getattr(layer, "config", None)
    old_heads = _first(layer, HEADS) or getattr(config, "num_attention_heads", None) or heads
    old_width = _first(layer, HEAD_DIMS) or width
    for names, new in ((HEADS, heads), (HEAD_DIMS, width)):
        _set(layer, names, new)
    for name in WIDTHS:
        if getattr(layer, name, None) == old_heads * old_width:
            setattr(layer, name, heads * width)
    said = {"num_attention_heads": heads, "head_dim": width}
    key = next((getattr(layer, name) for name in KEYS if isinstance(getattr(layer, name, None), nn.Linear)), None)
    if key is not None and key.weight.shape[0] % width == 0:
        said["num_key_value_heads"] = key.weight.shape[0] // width
        _set(layer, KV_HEADS, said["num_key_value_heads"])
        _set(layer, ("num_key_value_groups",), heads // max(said["num_key_value_heads"], 1))
    return said


def _first(layer: Any, names: Iterable[str]) -> int | None:
    return next((v for v in (getattr(layer, name, None) for name in names) if isinstance(v, int)), None)


def _set(layer: Any, names: Iterable[str], value: int) -> None:
    for name in names:
        if isinstance(getattr(layer, name, None), int):
            setattr(layer, name, value)


def _restate_config(config: Any, heads: list[dict[str, int]]) -> None:
    """Fields of a config, where everything that has the field agrees on one new value."""
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim"):
        values = {said[name] for said in heads if name in said}
        if len(values) == 1 and isinstance(getattr(config, name, None), int):
            setattr(config, name, values.pop())


def _restate_sizes(holder: Any, module: nn.Module, original: nn.Module, rename: Rename) -> None:
    """Sizes that a config or the model itself keeps, and what its parts repeat of them."""
    for name in SIZES:
        old = said = getattr(holder, name, None)
        if old is None and name in UNSAID and holder is not module and hasattr(holder, name):
            old, said = 4 * original.config.hidden_size, 4 * holder.hidden_size  # type: ignore[union-attr, operator] # a Hugging Face config
        values = _sizes_now(old, module, original, rename) if isinstance(old, int) else set()
        if name == "hidden_size" and isinstance(old, int):
            values = _width_now(old, module, original) or values
        if len(values) == 1 and values != {said}:
            new = values.pop()
            setattr(holder, name, new)
            for layer in module.modules():
                if getattr(layer, name, None) == old:
                    setattr(layer, name, new)


def _width_now(old: int, module: nn.Module, original: nn.Module) -> set[int]:
    """The width of the token embedding, where it was the hidden size: attention may be as wide by chance."""
    before, after = (getattr(m, "get_input_embeddings", lambda: None)() for m in (original, module))
    if isinstance(before, nn.Embedding) and isinstance(after, nn.Embedding) and before.embedding_dim == old:
        return {after.embedding_dim}
    return set()


def _sizes_now(old: int, module: nn.Module, original: nn.Module, rename: Rename) -> set[int]:
    """What the dims that had a size have now, over all parameters."""
    now: set[int] = set()
    new = dict(module.named_parameters(remove_duplicate=False))
    for name, before in original.named_parameters(remove_duplicate=False):
        after = new.get(rename(name) or "")
        if after is not None:
            now |= {b for a, b in zip(before.shape, after.shape, strict=True) if a == old}
    return now
