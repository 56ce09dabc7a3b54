"""Pointwise ops: dims align from the right and are the same axis."""

from __future__ import annotations

import torch

from graphc.axes.notation import broadcast
from graphc.axes.unify import unify
from graphc.rules.operation import Operation, Value
from graphc.rules.table import rule

aten = torch.ops.aten

UNARY = """
abs acos alias asin atan bitwise_not ceil celu clamp clamp_max clamp_min clone contiguous cos cosh detach
dropout elu empty_like erf erfc exp exp2 expm1 feature_dropout floor frac full_like gelu hardshrink hardsigmoid
hardswish hardtanh isfinite isinf isnan leaky_relu lift_fresh_copy log log10 log1p log2 log_sigmoid logical_not logit
mish nan_to_num neg ones_like positive rand_like randn_like reciprocal relu relu6 round rsqrt selu sigmoid sign silu
sin sinh softplus softshrink special_erf sqrt square tan tanh threshold trunc zero zeros_like
""".split()

FIRST = "_to_copy.default fill.Scalar fill.Tensor to.device to.dtype to.dtype_layout to.other type_as.default".split()

BROADCAST = """
__and__.Scalar __and__.Tensor __or__.Scalar __or__.Tensor add.Scalar add.Tensor addcdiv.default addcmul.default
atan2.default bitwise_and.Scalar bitwise_and.Tensor bitwise_or.Scalar bitwise_or.Tensor clamp.Tensor clamp_max.Tensor
clamp_min.Tensor copy.default div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode eq.Scalar eq.Tensor
floor_divide.Scalar floor_divide.default fmod.Scalar fmod.Tensor ge.Scalar ge.Tensor gt.Scalar gt.Tensor le.Scalar
le.Tensor lerp.Scalar lerp.Tensor logical_and.default logical_or.default logical_xor.default lt.Scalar lt.Tensor
masked_fill.Scalar masked_fill.Tensor max.other maximum.default min.other minimum.default mul.Scalar mul.Tensor
ne.Scalar ne.Tensor pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor remainder.Scalar remainder.Tensor rsub.Scalar
rsub.Tensor sub.Scalar sub.Tensor where.Scalar where.ScalarOther where.ScalarSelf where.self xlogy.Tensor
""".split()


def _first(op: Operation) -> Value:
    return op.tensor(0)


def _broadcast(op: Operation) -> Value:
    layouts = op.inputs()
    return layouts[0] if len(layouts) == 1 else broadcast(layouts, op.where)


def _prelu(op: Operation) -> Value:
    data, weight = op.tensor(0), op.tensor(1)
    if weight and len(data) > 1:
        unify(weight[0], data[1], op.where)
    return data


for _name in UNARY:
    rule(getattr(aten, _name).default, _first)
for _name in FIRST:
    rule(getattr(getattr(aten, _name.partition(".")[0]), _name.partition(".")[2]), _first)
for _name in BROADCAST:
    rule(getattr(getattr(aten, _name.partition(".")[0]), _name.partition(".")[2]), _broadcast)
rule(aten.prelu.default, _prelu)
