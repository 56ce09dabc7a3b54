"""How an op is written in a generated model: as a person would, or else as the aten op that it is."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphc.errors import EmitError

aten = torch.ops.aten
END = 2**63 - 1

Texts = Callable[[Any], str]
"""Gives the text of one argument."""

Special = Callable[[Sequence[Any], dict[str, Any], Texts], "str | None"]
"""Gives the text of a call; None where the short form cannot say all of it."""

BINARY = {
    aten.add.Tensor: "+",
    aten.sub.Tensor: "-",
    aten.mul.Tensor: "*",
    aten.div.Tensor: "/",
    aten.matmul.default: "@",
    aten.pow.Tensor_Scalar: "**",
    aten.pow.Tensor_Tensor: "**",
    aten.eq.Scalar: "==",
    aten.eq.Tensor: "==",
    aten.ne.Scalar: "!=",
    aten.ne.Tensor: "!=",
    aten.lt.Scalar: "<",
    aten.lt.Tensor: "<",
    aten.le.Scalar: "<=",
    aten.le.Tensor: "<=",
    aten.gt.Scalar: ">",
    aten.gt.Tensor: ">",
    aten.ge.Scalar: ">=",
    aten.ge.Tensor: ">=",
    aten.__and__.Tensor: "&",
    aten.__or__.Tensor: "|",
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.truediv: "/",
    operator.mod: "%",
    operator.pow: "**",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}

UNARY = {aten.neg.default: "-", aten.bitwise_not.default: "~", operator.neg: "-"}

FUNCTIONS = {
    aten.linear.default: "F.linear",
    aten.conv1d.default: "F.conv1d",
    aten.conv2d.default: "F.conv2d",
    aten.conv3d.default: "F.conv3d",
    aten.relu.default: "F.relu",
    aten.gelu.default: "F.gelu",
    aten.silu.default: "F.silu",
    aten.sigmoid.default: "torch.sigmoid",
    aten.tanh.default: "torch.tanh",
    aten.exp.default: "torch.exp",
    aten.rsqrt.default: "torch.rsqrt",
    aten.cos.default: "torch.cos",
    aten.sin.default: "torch.sin",
    aten.cat.default: "torch.cat",
    aten.stack.default: "torch.stack",
    aten.addmm.default: "torch.addmm",
    aten.bmm.default: "torch.bmm",
    aten.softmax.int: "torch.softmax",
    aten.where.self: "torch.where",
    aten.arange.default: "torch.arange",
    aten.max_pool2d.default: "F.max_pool2d",
    aten.avg_pool2d.default: "F.avg_pool2d",
    aten.adaptive_avg_pool2d.default: "F.adaptive_avg_pool2d",
    aten.scaled_dot_product_attention.default: "F.scaled_dot_product_attention",
}
"""Functions that take what the aten op takes, in the same order."""

METHODS = {
    aten.transpose.int: "transpose",
    aten.unsqueeze.default: "unsqueeze",
    aten.squeeze.dim: "squeeze",
    aten.flatten.using_ints: "flatten",
    aten.contiguous.default: "contiguous",
    aten.select.int: "select",
    aten.mean.dim: "mean",
    aten.sym_size.int: "size",
    aten.split_with_sizes.default: "split",
    aten.view.default: "view",
    aten.reshape.default: "reshape",
    aten.permute.default: "permute",
    aten.expand.default: "expand",
}
"""Methods whose first argument is the tensor, and whose others are the aten op's in the same order."""

NAMESPACES = {
    "aten": "",
    "torchvision": "import torchvision.ops  # defines ops that this model uses",
    "quantized_decomposed": "import torch.ao.quantization.fx._decomposed  # defines ops that this model uses",
    "torchao": "import torchao  # defines ops that this model uses",
}
"""Libraries of ops, and the line that defines them where torch alone does not."""


def spell(target: Any, args: Sequence[Any], kwargs: dict[str, Any], texts: Texts) -> str:
    """The call of an op as Python text.

    Args:
        target: what the node calls.
        args, kwargs: its arguments, nodes among them.
        texts: the text of one argument.

    Raises:
        EmitError: the target has no name that a generated file could use.
    """
    special = SPECIAL.get(target)
    short = special(args, kwargs, texts) if special is not None else None
    if short is not None:
        return short
    given = [texts(a) for a in args]
    if target in BINARY and len(given) == 2 and not kwargs:
        return f"{given[0]} {BINARY[target]} {given[1]}"
    if target in UNARY and len(given) == 1 and not kwargs:
        return f"{UNARY[target]}{given[0]}"
    if target is operator.getitem:
        return f"{given[0]}[{given[1]}]"
    words = [*given[1:], *(f"{key}={texts(value)}" for key, value in kwargs.items())]
    if target in METHODS:
        return f"{given[0]}.{METHODS[target]}({', '.join(words)})"
    return f"{FUNCTIONS.get(target) or function_name(target)}({', '.join([*given[:1], *words])})"


def function_name(target: Any) -> str:
    """The dotted name of an op: ``aten.gather``, ``aten.index.Tensor``, ``torch.sym_max``.

    Raises:
        EmitError: there is none.
    """
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace in NAMESPACES:
            name = str(target).removesuffix(".default")
            return name if target.namespace == "aten" else f"torch.ops.{name}"
        why = f"graphc does not know which package defines the ops {target.namespace}::*"
    else:
        name = getattr(target, "__name__", "")
        for module, prefix in ((torch, "torch"), (math, "math"), (operator, "operator")):
            if name and getattr(module, name, None) is target:
                return f"{prefix}.{name}"
        why = "it is a Python function without a public name"
    raise EmitError(
        "the program cannot be written as a generated model",
        where=str(target),
        why=why,
        hint="emit a .pt2 file instead",
    )


def imports_of(targets: Sequence[Any]) -> list[str]:
    """Lines that define the libraries of ops that a program uses."""
    spaces = {t.namespace for t in targets if isinstance(t, torch._ops.OpOverload)}
    lines = {NAMESPACES.get(space, "") for space in spaces}
    used = {getattr(t, "__module__", "") for t in targets if not isinstance(t, torch._ops.OpOverload)}
    lines |= {f"import {name}" for name in ("math", "operator") if used & {name, f"_{name}"}}
    return sorted(line for line in lines if line)


def _filled(args: Sequence[Any], required: int, *defaults: Any) -> list[Any]:
    """All arguments: the required ones, then those given or their defaults."""
    return [*args, *defaults[len(args) - required :]]


def _embedding(args: Sequence[Any], kwargs: dict[str, Any], texts: Texts) -> str | None:
    weight, index, padding, *others = _filled(args, 2, -1, False, False)
    if any(others) or kwargs:
        return None
    words = [texts(index), texts(weight)] + ([texts(padding)] if padding != -1 else [])
    return f"F.embedding({', '.join(words)})"


def _layer_norm(args: Sequence[Any], kwargs: dict[str, Any], texts: Texts) -> str | None:
    return None if kwargs else f"F.layer_norm({', '.join(texts(a) for a in args[:5])})"


def _batch_norm(args: Sequence[Any], kwargs: dict[str, Any], texts: Texts) -> str | None:
    if kwargs or len(args) < 8:
        return None
    x, weight, bias, mean, variance = map(texts, args[:5])
    words = [x, mean, variance, weight, bias, _training(args[5]), texts(args[6]), texts(args[7])]
    return f"F.batch_norm({', '.join(words)})"


def _dropout(args: Sequence[Any], kwargs: dict[str, Any], texts: Texts) -> str | None:
    return None if kwargs else f"F.dropout({texts(args[0])}, {texts(args[1])}, {_training(args[2])})"


def _training(flag: Any) -> str:
    """What is off in evaluation follows the module; what is on even then always is."""
    return "True" if flag is True else "self.training"


def _slice(args: Sequence[Any], kwargs: dict[str, Any], texts: Texts) -> str | None:
    if kwargs:
        return None
    data, dim, start, end, step = _filled(args, 1, 0, None, None, 1)
    if not isinstance(dim, int) or dim < 0:
        return None
    first = "" if start in (None, 0) else texts(start)
    last = "" if end is None or end == END else texts(end)
    by = "" if step == 1 else f":{texts(step)}"
    return f"{texts(data)}[{':, ' * dim}{first}:{last}{by}]"


def _to(args: Sequence[Any], kwargs: dict[str, Any], texts: Texts) -> str | None:
    return None if kwargs or len(args) > 3 else f"{texts(args[0])}.to({', '.join(map(texts, args[1:]))})"


SPECIAL: dict[Any, Special] = {
    aten.embedding.default: _embedding,
    aten.layer_norm.default: _layer_norm,
    aten.batch_norm.default: _batch_norm,
    aten.dropout.default: _dropout,
    aten.slice.Tensor: _slice,
    aten.to.device: _to,
    aten.to.dtype: _to,
}
"""Ops whose arguments stand in another order, or are written with other signs."""
