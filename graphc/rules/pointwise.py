"""Pointwise ops: dims align from the right and are the same axis."""

from __future__ import annotations

from typing import Any

import torch

from graphc.axes.notation import broadcast
from graphc.axes.unify import unify
from graphc.rules.operation import Operation, Value
from graphc.rules.table import rule, rule_of

aten = torch.ops.aten

UNARY = """
abs absolute acos acosh alias alpha_dropout arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh
bitwise_not ceil celu clamp clamp_max clamp_min clip clone conj_physical contiguous cos cosh deg2rad detach
digamma dropout elu empty_like erf erfc erfinv exp exp2 expm1 feature_alpha_dropout feature_dropout fix floor frac
full_like gelu hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan isneginf isposinf leaky_relu lgamma
lift_fresh_copy log log10 log1p log2 log_sigmoid logical_not logit mish nan_to_num neg negative ones_like positive
rad2deg rand_like randn_like reciprocal relu relu6 round rrelu rsqrt selu sgn sigmoid sign signbit silu sin sinc sinh
softplus softshrink special_erf special_exp2 special_expit special_expm1 special_log1p special_logit special_sinc sqrt
square tan tanh threshold trunc zero zeros_like
""".split()

FIRST = """
_to_copy.default fill.Scalar fill.Tensor round.decimals to.device to.dtype to.dtype_layout to.other type_as.default
""".split()

BROADCAST = """
__and__.Scalar __and__.Tensor __or__.Scalar __or__.Tensor __xor__.Scalar __xor__.Tensor add.Scalar add.Tensor
addcdiv.default addcmul.default arctan2.default atan2.default bitwise_and.Scalar bitwise_and.Tensor bitwise_or.Scalar
bitwise_or.Tensor bitwise_xor.Scalar bitwise_xor.Tensor clamp.Tensor clamp_max.Tensor clamp_min.Tensor clip.Tensor
copy.default copysign.Scalar copysign.Tensor div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode divide.Scalar
divide.Tensor divide.Tensor_mode eq.Scalar eq.Tensor floor_divide.Scalar floor_divide.default fmax.default
fmin.default fmod.Scalar fmod.Tensor ge.Scalar ge.Tensor greater.Scalar greater.Tensor greater_equal.Scalar
greater_equal.Tensor gt.Scalar gt.Tensor heaviside.default hypot.default le.Scalar le.Tensor lerp.Scalar lerp.Tensor
less.Scalar less.Tensor less_equal.Scalar less_equal.Tensor logaddexp.default logaddexp2.default logical_and.default
logical_or.default logical_xor.default lt.Scalar lt.Tensor masked_fill.Scalar masked_fill.Tensor max.other
maximum.default min.other minimum.default mul.Scalar mul.Tensor multiply.Scalar multiply.Tensor ne.Scalar ne.Tensor
not_equal.Scalar not_equal.Tensor polar.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor remainder.Scalar
remainder.Tensor rsub.Scalar rsub.Tensor sub.Scalar sub.Tensor subtract.Scalar subtract.Tensor true_divide.Scalar
true_divide.Tensor where.Scalar where.ScalarOther where.ScalarSelf where.self xlogy.Scalar_Other xlogy.Scalar_Self
xlogy.Tensor
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


def is_pointwise(target: Any) -> bool:
    """Does an op compute each entry of its result from one entry of each operand?"""
    return rule_of(target) in (_first, _broadcast, _prelu)


for _name in UNARY:
    rule(getattr(aten, _name).default, _first)
for _name in FIRST:
    rule(getattr(getattr(aten, _name.partition(".")[0]), _name.partition(".")[2]), _first)
for _name in BROADCAST:
    rule(getattr(getattr(aten, _name.partition(".")[0]), _name.partition(".")[2]), _broadcast)
rule(aten.prelu.default, _prelu)
rule(aten.native_dropout.default, lambda op: (op.tensor(0), op.tensor(0)))
