"""Samples of ops that compute along axes: products, convolutions, norms, attention, reductions."""

from __future__ import annotations

from typing import Any

import torch

from graphc.rules.conv import SMOOTH
from tests.rules.engine import B, T, V

Sample = tuple[list[Any], dict[str, Any]]


def plain(*args: Any) -> Sample:
    return list(args), {}


CONTRACT: dict[str, list[Sample]] = {
    "linear.default": [
        plain(T((2, 3, 5)), T((7, 5)), T((7,))),
        plain(T((3, 5)), T((7, 5))),
        plain(T((2, 1)), T((7, 1)), T((7,))),
    ],
    "addmm.default": [
        plain(T((7,)), T((3, 5)), T((5, 7))),
        plain(T((3, 7)), T((3, 5)), T((5, 7))),
        plain(T(()), T((3, 5)), T((5, 7))),
    ],
    "addmv.default": [plain(T((3,)), T((3, 5)), T((5,)))],
    "outer.default": [plain(T((3,)), T((5,)))],
    "dot.default": [plain(T((5,)), T((5,)))],
    "vdot.default": [plain(T((5,)), T((5,)))],
    "mv.default": [plain(T((3, 5)), T((5,)))],
    "bilinear.default": [plain(T((2, 3)), T((2, 5)), T((7, 3, 5)), T((7,)))],
    "matmul.default": [
        plain(T((2, 4, 3, 5)), T((2, 4, 5, 7))),
        plain(T((3, 5)), T((5,))),
        plain(T((5,)), T((2, 5, 7))),
        plain(T((4, 1, 3, 5)), T((2, 5, 7))),
        plain(T((5,)), T((5,))),
    ],
    "mm.default": [plain(T((3, 5)), T((5, 7)))],
    "bmm.default": [plain(T((2, 3, 5)), T((2, 5, 7)))],
    "baddbmm.default": [plain(T((2, 3, 7)), T((2, 3, 5)), T((2, 5, 7)))],
    "einsum.default": [
        plain("bhsd,bhtd->bhst", [T((2, 4, 3, 5)), T((2, 4, 6, 5))]),
        plain("...i,oi->...o", [T((2, 3, 5)), T((7, 5))]),
        plain("ij,jk", [T((3, 5)), T((5, 7))]),
        plain("bij->bji", [T((2, 3, 5))]),
        plain("bij->bj", [T((2, 3, 5))]),
        plain("...j->j", [T((2, 3, 5))]),
        plain("bi,bj->bj", [T((2, 3)), T((2, 5))]),
        plain("bii->bi", [T((2, 3, 3))]),
        plain("ab,bc,cd->ad", [T((3, 5)), T((5, 7)), T((7, 2))]),
        plain("nchw,hkc->nkwh", [T((2, 3, 5, 4)), T((5, 7, 3))]),
        plain("b...d,de->b...e", [T((2, 3, 4, 5)), T((5, 7))]),
        plain("...ij, ...jk", [T((2, 3, 5)), T((4, 2, 5, 7))]),
        plain("...i,i...->...", [T((2, 3, 5)), T((5, 3))]),
        plain("i...,...i->i", [T((5, 3)), T((3, 5))]),
        plain("BA,aB", [T((3, 5)), T((2, 3))]),
        plain("bi,bi->", [T((2, 3)), T((2, 3))]),
        plain("i,->i", [T((5,)), T(())]),
        plain("ij,ij->ij", [T((1, 5)), T((3, 1))]),
        plain("ii->", [T((3, 3))]),
        plain("ii,ij->j", [T((3, 3)), T((3, 5))]),
        plain("...->...", [T((3, 5))]),
    ],
}

CONV: dict[str, list[Sample]] = {
    "conv1d.default": [plain(T((2, 6, 9)), T((8, 3, 3)), T((8,)), [1], [1], [1], 2)],
    "conv1d.padding": [plain(T((2, 6, 9)), T((8, 3, 3)), T((8,)), [1], "same", [1], 2)],
    "conv2d.default": [
        plain(T((2, 6, 5, 7)), T((9, 2, 3, 3)), T((9,)), [1, 1], [1, 1], [1, 1], 3),
        plain(T((2, 6, 5, 7)), T((6, 1, 3, 3)), None, [1, 1], [1, 1], [1, 1], 6),
        plain(T((2, 6, 5, 7)), T((12, 1, 3, 3)), T((12,)), [1, 1], [1, 1], [1, 1], 6),
        plain(T((6, 5, 7)), T((4, 6, 3, 3))),
        plain(T((2, 1, 5, 7)), T((4, 1, 3, 3)), T((4,))),
        plain(T((2, 6, 5, 7)), T((1, 6, 3, 3)), T((1,))),
        plain(T((2, 6, 5, 7)), T((4, 6, 1, 1)), None, [1, 1]),
        plain(T((2, 6, 5, 7)), T((4, 6, 1, 3)), None, [1, 1], [0, 1]),
        plain(T((2, 6, 5, 7)), T((4, 6, 3, 3)), None, [2, 2], [1, 1]),
    ],
    "conv2d.padding": [plain(T((2, 6, 5, 7)), T((4, 6, 3, 3)), T((4,)), [1, 1], "same")],
    "conv3d.default": [plain(T((2, 6, 3, 4, 5)), T((4, 3, 2, 3, 3)), T((4,)), [1] * 3, [1] * 3, [1] * 3, 2)],
    "conv3d.padding": [plain(T((2, 6, 3, 4, 5)), T((4, 6, 3, 3, 3)), T((4,)), [1] * 3, "same")],
    "conv_transpose1d.default": [plain(T((2, 6, 5)), T((6, 4, 3)), T((8,)), [2], [0], [0], 2)],
    "conv_transpose2d.input": [
        plain(T((2, 6, 4, 5)), T((6, 4, 3, 3)), T((8,)), [2, 2], [0, 0], [0, 0], 2),
        plain(T((2, 6, 4, 5)), T((6, 7, 2, 2)), T((7,))),
    ],
    "conv_transpose3d.input": [plain(T((2, 4, 3, 4, 5)), T((4, 6, 2, 2, 2)), T((6,)))],
    "convolution.default": [
        plain(T((2, 6, 5, 7)), T((9, 2, 3, 3)), T((9,)), [1, 1], [1, 1], [1, 1], False, [0, 0], 3),
        plain(T((2, 6, 5)), T((6, 4, 3)), T((8,)), [2], [0], [1], True, [0], 2),
    ],
    "avg_pool1d.default": [plain(T((2, 3, 8)), [2])],
    "avg_pool2d.default": [plain(T((2, 3, 6, 8)), [2, 2])],
    "avg_pool3d.default": [plain(T((2, 3, 4, 6, 8)), [2, 2, 2])],
    "max_pool1d.default": [plain(T((2, 3, 8)), [2])],
    "max_pool2d.default": [plain(T((2, 3, 6, 8)), [2, 2])],
    "max_pool3d.default": [plain(T((2, 3, 4, 6, 8)), [2, 2, 2])],
    "adaptive_avg_pool1d.default": [plain(T((2, 3, 8)), [4])],
    "adaptive_avg_pool2d.default": [plain(T((2, 3, 6, 8)), [1, 1]), plain(T((2, 3, 6, 8)), [2, 4])],
    "adaptive_avg_pool3d.default": [plain(T((2, 3, 4, 6, 8)), [1, 1, 1])],
    "max_pool2d_with_indices.default": [plain(T((2, 3, 6, 8)), [2, 2])],
    "adaptive_max_pool2d.default": [plain(T((2, 3, 6, 8)), [2, 4])],
    "adaptive_max_pool1d.default": [plain(T((2, 3, 8)), [4])],
    "adaptive_max_pool3d.default": [plain(T((2, 3, 4, 6, 8)), [1, 2, 4])],
    "max_pool3d_with_indices.default": [plain(T((2, 3, 4, 6, 8)), [2, 2, 2])],
    "_adaptive_avg_pool2d.default": [plain(T((2, 3, 6, 8)), [1, 1])],
    "_adaptive_avg_pool3d.default": [plain(T((2, 3, 4, 6, 8)), [1, 1, 1])],
    "grid_sampler.default": [
        plain(T((3, 4, 5, 6)), T((3, 7, 8, 2)), 0, 0, False),
        plain(T((3, 4, 5, 6, 2)), T((3, 7, 8, 9, 3)), 0, 0, False),
    ],
    "grid_sampler_2d.default": [plain(T((3, 4, 5, 6)), T((3, 7, 8, 2)), 0, 0, False)],
    "grid_sampler_3d.default": [plain(T((3, 4, 5, 6, 2)), T((3, 7, 8, 9, 3)), 0, 0, False)],
    "affine_grid_generator.default": [plain(T((4, 2, 3)), [4, 3, 5, 6], False)],
    "im2col.default": [plain(T((3, 4, 5, 6)), [2, 3], [1, 1], [0, 0], [1, 1])],
    "col2im.default": [plain(T((3, 24, 12)), [6, 8], [2, 2], [1, 1], [0, 0], [2, 2])],
    "pixel_shuffle.default": [plain(T((2, 12, 3, 5)), 2)],
    "pixel_unshuffle.default": [plain(T((2, 3, 4, 6)), 2)],
    "channel_shuffle.default": [plain(T((2, 12, 3, 5)), 3)],
}

UPSAMPLE: dict[str, list[Sample]] = {}
for _rank, _names in SMOOTH.items():
    _data, _large, _factors = T((2, 3, 4, 5, 6)[: 2 + _rank]), [8, 10, 12][:_rank], [2.0] * _rank
    for _name in (f"upsample_nearest{_rank}d", f"_upsample_nearest_exact{_rank}d"):
        UPSAMPLE[f"{_name}.vec"] = [plain(_data, None, _factors)]
        UPSAMPLE[f"{_name}.default"] = [plain(_data, _large)]
    for _name in _names:
        UPSAMPLE[f"{_name}.vec"] = [plain(_data, None, False, _factors), plain(_data, _large, True, None)]
        UPSAMPLE[f"{_name}.default"] = [plain(_data, _large, False)]

NORM: dict[str, list[Sample]] = {
    "batch_norm.default": [
        plain(T((4, 6, 3)), T((6,)), T((6,)), T((6,)), T((6,), low=0.5), False, 0.1, 1e-5, False),
        plain(T((4, 6, 3)), T((6,)), T((6,)), None, None, True, 0.1, 1e-5, False),
    ],
    "instance_norm.default": [
        plain(T((4, 6, 3)), T((6,)), T((6,)), None, None, True, 0.1, 1e-5, False),
        plain(T((4, 6, 3)), T((6,)), T((6,)), T((6,)), T((6,), low=0.5), False, 0.1, 1e-5, False),
    ],
    "_native_batch_norm_legit_no_training.default": [
        plain(T((4, 6, 3)), T((6,)), T((6,)), T((6,)), T((6,), low=0.5), 0.1, 1e-5),
    ],
    "native_layer_norm.default": [
        plain(T((4, 3, 6)), [6], T((6,)), T((6,)), 1e-5),
        plain(T((4, 3, 6)), [3, 6], None, None, 1e-5),
    ],
    "native_group_norm.default": [plain(T((4, 12, 5, 2)), T((12,)), T((12,)), 4, 12, 10, 3, 1e-5)],
    "layer_norm.default": [plain(T((4, 3, 6)), [6], T((6,)), T((6,)), 1e-5), plain(T((4, 3, 6)), [3, 6])],
    "rms_norm.default": [plain(T((4, 3, 6)), [6], T((6,)), 1e-5)],
    "group_norm.default": [
        plain(T((4, 12, 5)), 3, T((12,)), T((12,)), 1e-5),
        plain(T((4, 12, 5)), 12, T((12,)), T((12,)), 1e-5),
        plain(T((4, 12, 5, 2)), 1),
    ],
    "_weight_norm.default": [plain(T((4, 3, 5)), T((1, 1, 5)), 2), plain(T((4, 3)), T((4, 1)))],
    "_weight_norm_interface.default": [plain(T((4, 3, 5)), T((1, 1, 5)), 2), plain(T((4, 3)), T((4, 1)))],
    "softmax.int": [plain(T((4, 3, 6)), -1)],
    "_softmax.default": [plain(T((4, 3, 6)), 1, False)],
    "_safe_softmax.default": [plain(T((4, 3, 6)), -1)],
    "log_softmax.int": [plain(T((4, 3, 6)), -1)],
    "_log_softmax.default": [plain(T((4, 3, 6)), 1, False)],
}

ATTENTION: dict[str, list[Sample]] = {
    "scaled_dot_product_attention.default": [
        ([T((2, 4, 3, 6)), T((2, 4, 5, 6)), T((2, 4, 5, 7))], {"scale": 0.4}),
        ([T((2, 4, 3, 6)), T((2, 4, 5, 6)), T((2, 4, 5, 6)), T((2, 1, 3, 5))], {"scale": 0.4}),
        ([T((2, 6, 3, 4)), T((2, 2, 5, 4)), T((2, 2, 5, 4))], {"scale": 0.4, "enable_gqa": True}),
        ([T((2, 6, 3, 4)), T((2, 2, 5, 4)), T((2, 2, 5, 4)), T((2, 6, 3, 5))], {"scale": 0.4, "enable_gqa": True}),
        ([T((2, 6, 3, 4)), T((2, 1, 5, 4)), T((2, 1, 5, 4))], {"scale": 0.4, "enable_gqa": True}),
        ([T((2, 4, 3, 6)), T((2, 4, 5, 6)), T((2, 4, 5, 7)), B((3, 5))], {"scale": 0.4}),
        ([T((2, 4, 3, 6)), T((2, 4, 5, 6)), T((2, 4, 5, 7)), None, 0.0, True], {"scale": 0.4}),
        ([T((2, 4, 3, 6)), T((2, 4, 5, 6)), T((2, 4, 5, 7))], {}),
    ],
}

_ALONG = {
    name: [plain(T((4, 3, 6)), [1]), plain(T((4, 3, 6)), [0, 2], True)]
    for name in ("mean.dim", "sum.dim_IntList", "nansum.default", "amax.default", "amin.default", "logsumexp.default")
}
_ONE = {
    name: [plain(T((4, 3, 6)), 1), plain(T((4, 3, 6)), -1, True)]
    for name in ("all.dim", "any.dim", "prod.dim_int", "max.dim", "min.dim", "median.dim", "argmax.default")
}
_WHOLE = {
    name: [plain(T((4, 3)))]
    for name in (
        *("mean.default", "sum.default", "max.default", "min.default", "all.default"),
        *("any.default", "prod.default", "std.default"),
    )
}

REDUCE: dict[str, list[Sample]] = {
    **_ALONG,
    **_ONE,
    **_WHOLE,
    "all.dims": [plain(T((4, 3, 6)), [0, 2])],
    "any.dims": [plain(T((4, 3, 6)), [0, 2])],
    "var.dim": [plain(T((4, 3, 6)), [1], True, True)],
    "std.dim": [plain(T((4, 3, 6)), [1], True)],
    "var.correction": [
        ([T((4, 3, 6)), [1]], {"correction": 0, "keepdim": True}),
        ([T((4, 3))], {"correction": 1}),
    ],
    "var_mean.dim": [plain(T((4, 3, 6)), [1], True, True)],
    "std_mean.dim": [plain(T((4, 3, 6)), [1], True)],
    "var_mean.correction": [([T((4, 3, 6)), [1]], {"correction": 1, "keepdim": True})],
    "std_mean.correction": [([T((4, 3, 6)), [1]], {"correction": 1})],
    "nanmean.default": [plain(T((4, 3, 6)), [1])],
    "count_nonzero.default": [plain(T((4, 3, 6)), 1), plain(T((4, 3)))],
    "count_nonzero.dim_IntList": [plain(T((4, 3, 6)), [0, 2])],
    "linalg_norm.default": [plain(T((4, 3, 6)), None, [1], True)],
    "cosine_similarity.default": [plain(T((4, 3, 6)), T((3, 6)), -1)],
    "pairwise_distance.default": [plain(T((4, 6)), T((4, 6)), 2.0, 1e-6, True)],
    "cummax.default": [plain(T((4, 3, 6)), 1)],
    "cummin.default": [plain(T((4, 3, 6)), 1)],
    "kthvalue.default": [plain(T((4, 7, 2)), 3, 1), plain(T((4, 7)), 2, -1, True)],
    "sort.stable": [([T((4, 3, 6))], {"stable": True, "dim": 1})],
    "argsort.stable": [([T((4, 3, 6))], {"stable": True, "dim": 1}), ([T((4, 6))], {"stable": False})],
    "std.correction": [([T((4, 3, 6)), [1]], {"correction": 0})],
    "linalg_vector_norm.default": [plain(T((4, 3, 6)), 2, [1], True)],
    "norm.ScalarOpt_dim": [plain(T((4, 3, 6)), 2, [1], True)],
    "mode.default": [plain(T((4, 3, 6)), 1)],
    "argmin.default": [plain(T((4, 3, 6)), 1), plain(T((4, 3)))],
    "cumsum.default": [plain(T((4, 3, 6)), 1)],
    "cumprod.default": [plain(T((4, 3, 6)), 1)],
    "logcumsumexp.default": [plain(T((4, 3, 6)), 1)],
    "sort.default": [plain(T((4, 3, 6)), 1)],
    "topk.default": [plain(T((4, 7)), 3), plain(T((4, 7, 2)), 3, 1)],
    "argsort.default": [plain(T((4, 3, 6)), 1)],
}

WAVES: dict[str, list[Sample]] = {
    "real.default": [plain(T((4, 3), dtype=torch.complex128))],
    "imag.default": [plain(T((4, 3), dtype=torch.complex128))],
    **{f"fft_{name}.default": [plain(T((3, 5, 8))), plain(T((3, 5, 8)), None, 1)] for name in ("fft", "rfft", "ihfft")},
    **{f"fft_{name}.default": [plain(T((3, 5, 8))), plain(T((3, 5, 8)), 6, 1)] for name in ("ifft", "irfft", "hfft")},
    **{
        f"fft_{name}.default": [plain(T((3, 5, 8))), plain(T((3, 5, 8)), None, [0, 2])]
        for name in ("fft2", "ifft2", "rfft2", "irfft2")
    },
    **{
        f"fft_{name}.default": [plain(T((5, 8))), plain(T((3, 5, 8)), None, [1, 2]), plain(T((3, 5)), [4, 6])]
        for name in ("fftn", "ifftn", "rfftn", "irfftn")
    },
}

LIBRARIES: dict[str, list[Sample]] = {
    "transformers.grouped_mm_fallback.default": [
        plain(T((9, 5)), T((3, 5, 7)), V((2, 5, 9))),
        plain(T((9, 1)), T((3, 1, 7)), V((2, 2, 9))),
    ],
}
"""Ops of other libraries, which are imported for the test."""

SAMPLES = {**WAVES, **LIBRARIES, **CONTRACT, **CONV, **UPSAMPLE, **NORM, **ATTENTION, **REDUCE}
