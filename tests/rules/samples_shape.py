"""Samples of ops that re-arrange, join, cut, repeat and index."""

from __future__ import annotations

from typing import Any

import torch

from tests.rules.engine import B, I, T, V

END = 2**63 - 1
Sample = tuple[list[Any], dict[str, Any]]


def plain(*args: Any) -> Sample:
    return list(args), {}


SHAPE: dict[str, list[Sample]] = {
    "view.default": [
        plain(T((4, 12)), [4, 3, 4]),
        plain(T((4, 3, 5)), [4, 15]),
        plain(T((4, 6)), [-1, 2, 3]),
        plain(T((6, 4)), [8, 3]),
        plain(T((2, 3, 5)), [5, 6]),
        plain(T((2, 3, 4, 5)), [2, 3, 5, 4]),
        plain(T((3, 4, 5, 6)), [4, 3, 1, 5, 2, 3]),
        plain(T((4, 1, 6)), [4, 6, 1]),
        plain(T((3, 4)), [1, 3, -1, 4]),
        plain(T((1,)), []),
    ],
    "reshape.default": [plain(T((4, 12)), [4, 6, 2]), plain(T((1, 6)), [6])],
    "_unsafe_view.default": [plain(T((4, 12)), [2, 2, 12])],
    "view_as.default": [plain(T((4, 6)), T((4, 2, 3)))],
    "reshape_as.default": [plain(T((4, 2, 3)), T((4, 6)))],
    "flatten.using_ints": [plain(T((4, 3, 5)), 1), plain(T((4, 3, 5, 2)), 1, 2)],
    "ravel.default": [plain(T((4, 3, 5)))],
    "unflatten.int": [plain(T((4, 12)), 1, [3, 4]), plain(T((12, 4)), -2, [3, -1])],
    "transpose.int": [plain(T((4, 3, 5)), 1, -1)],
    "swapaxes.default": [plain(T((4, 3, 5)), 0, 2)],
    "swapdims.default": [plain(T((4, 3, 5)), 0, 1)],
    "t.default": [plain(T((4, 3)))],
    "numpy_T.default": [plain(T((4, 3)))],
    "mT.default": [plain(T((2, 4, 3)))],
    "mH.default": [plain(T((2, 4, 3)))],
    "adjoint.default": [plain(T((2, 4, 3)))],
    "view_as_complex.default": [plain(T((4, 3, 2)))],
    "view_as_real.default": [plain(T((4, 3), dtype=torch.complex128))],
    "permute.default": [plain(T((4, 3, 5)), [2, 0, 1]), plain(T((4, 3, 5)), [-1, 0, 1])],
    "movedim.int": [plain(T((4, 3, 5)), 0, -1)],
    "movedim.intlist": [plain(T((4, 3, 5)), [0, 1], [2, 0])],
    "moveaxis.int": [plain(T((4, 3, 5)), -1, 0)],
    "moveaxis.intlist": [plain(T((4, 3, 5, 2)), [-1, 0], [0, 2])],
    "unsqueeze.default": [plain(T((4, 3)), -1), plain(T((4, 3)), 1)],
    "squeeze.default": [plain(T((4, 1, 3)))],
    "squeeze.dim": [plain(T((4, 1, 3)), 1), plain(T((4, 3)), 1)],
    "squeeze.dims": [plain(T((4, 1, 3, 1)), [1, 3])],
}

PIECES: dict[str, list[Sample]] = {
    "cat.default": [
        plain([T((4, 3)), T((4, 5))], 1),
        plain([T((2, 3)), T((1, 3))], 0),
        plain([T((2, 3)), T((2, 0))], 1),
        plain([T((0,)), T((4, 3))], 1),
        plain([T((4, 3)), T((4, 1)), T((4, 1))], 1),
    ],
    "concat.default": [plain([T((4, 3)), T((4, 5))], -1)],
    "concatenate.default": [plain([T((4, 3)), T((4, 5))], 1)],
    "hstack.default": [plain([T((4, 3)), T((4, 5))]), plain([T((3,)), T((5,)), T(())])],
    "vstack.default": [plain([T((4, 3)), T((5, 3))]), plain([T((3,)), T((3,)), T((2, 3))])],
    "glu.default": [plain(T((4, 10, 3)), 1), plain(T((4, 6)))],
    "narrow.default": [plain(T((4, 9)), 1, 2, 4), plain(T((4, 9)), -1, 0, 9), plain(T((4, 9)), 1, -3, 3)],
    "stack.default": [plain([T((4, 3)), T((4, 3))], 1)],
    "split_with_sizes.default": [
        plain(T((4, 9)), [2, 3, 4], 1),
        plain(T((4, 3)), [1, 2], -1),
        plain(T((1, 3)), [0, 1]),
    ],
    "split.sizes": [plain(T((4, 9)), [2, 7], 1)],
    "slice.Tensor": [
        plain(T((4, 9)), 1, 2, 6),
        plain(T((4, 9)), 1, 3, END),
        plain(T((4, 9)), 0, 0, 2),
        plain(T((4, 9)), 1, 0, 9),
        plain(T((4, 9)), 1, 1, END, 2),
        plain(T((4, 10)), 1, 1, END, 2),
        plain(T((4, 9)), -1, 0, END, 3),
        plain(T((4, 6)), 1, 3, END, 2),
        plain(T((4, 3)), 1, 1, END, 3),
        plain(T((4, 9)), 1, 9, END),
        plain(T((4, 9)), 1, 2, 100),
        plain(T((4, 9)), 1, 1, 2),
        plain(T((4, 9)), 1, 3, 3),
        plain(T((4, 9)), 1, -3, END),
        plain(T((1, 9)), 0, 1, END),
    ],
    "select.int": [plain(T((4, 9)), 1, 3)],
    "unbind.int": [plain(T((4, 3)), 1)],
}

REPEAT: dict[str, list[Sample]] = {
    "expand.default": [plain(T((4, 1, 3)), [4, 5, 3]), plain(T((4, 1)), [2, -1, 6])],
    "broadcast_to.default": [plain(T((3,)), [4, 3])],
    "expand_as.default": [plain(T((4, 1)), T((4, 5))), plain(T((5,)), T((4, 5)))],
    "repeat.default": [plain(T((4, 3)), [2, 1, 5]), plain(T((1, 3)), [2, 1])],
    "tile.default": [plain(T((4, 3)), [2]), plain(T((4, 3)), [2, 5, 1])],
    "repeat_interleave.self_int": [plain(T((4, 3)), 5, 1), plain(T((4, 3)), 5)],
    "roll.default": [plain(T((4, 5)), [2], [1]), plain(T((4, 5)), [1]), plain(T((4, 5, 6)), [1, 2], [0, -1])],
    "flip.default": [plain(T((4, 5)), [1])],
    "pad.default": [plain(T((4, 3, 5)), [1, 2]), plain(T((4, 3, 5)), [0, 0, 1, 1])],
    "constant_pad_nd.default": [plain(T((4, 3, 5)), [1, 2])],
    "reflection_pad2d.default": [plain(T((2, 3, 4, 5)), [1, 1, 2, 2])],
    "replication_pad2d.default": [plain(T((2, 3, 4, 5)), [1, 1, 2, 2])],
    "reflection_pad1d.default": [plain(T((2, 3, 5)), [1, 2])],
    "reflection_pad3d.default": [plain(T((2, 3, 4, 5, 6)), [1, 1, 2, 2, 1, 1])],
    "replication_pad1d.default": [plain(T((2, 3, 5)), [1, 2])],
    "replication_pad3d.default": [plain(T((2, 3, 4, 5, 6)), [1, 1, 2, 2, 1, 1])],
    "diff.default": [
        plain(T((4, 7)), 1, 1),
        plain(T((4, 7)), 2),
        plain(T((4, 7)), 1, 0, T((1, 7))),
        plain(T((4, 7)), 1, -1, T((4, 2)), T((4, 3))),
    ],
    "unfold.default": [plain(T((4, 7)), 1, 3, 2)],
}

INDEX: dict[str, list[Sample]] = {
    "embedding.default": [plain(T((7, 5)), I((3, 4), 7))],
    "index.Tensor": [
        plain(T((7, 5)), [I((3, 4), 7)]),
        plain(T((4, 7, 5)), [None, I((6, 2), 7)]),
        plain(T((7, 4, 5)), [I((9,), 7), None, I((9,), 5)]),
        plain(T((3, 5)), [B((3,))]),
        plain(T((3, 5, 4)), [B((3, 5))]),
        plain(T((4, 3, 5)), [None, None, B((5,))]),
        plain(T((7, 5)), [I((), 7)]),
        plain(T((4, 7, 5)), [None, I((3, 1), 7), I((2,), 5)]),
        plain(T((4, 7, 5, 6)), [None, I((3, 1), 7), None, I((2,), 6)]),
    ],
    "index_select.default": [plain(T((7, 5)), 0, I((9,), 7))],
    "gather.default": [plain(T((4, 7)), 1, I((4, 9), 7)), plain(T((6, 7)), 1, I((4, 9), 7))],
    "scatter.src": [
        plain(T((4, 7)), 1, I((4, 3), 7), T((4, 3))),
        plain(T((4, 7)), 0, I((3, 7), 4), T((3, 7))),
        plain(T((4, 7)), 1, I((2, 3), 6), T((4, 5))),
    ],
    "scatter.value": [plain(T((4, 7)), 1, I((4, 3), 7), 2.0)],
    "scatter_add.default": [plain(T((4, 7)), 1, I((4, 3), 7), T((4, 3)))],
    "scatter_reduce.two": [plain(T((4, 7)), 1, I((4, 3), 7), T((4, 3)), "amax")],
    "index_put.default": [
        plain(T((7, 5)), [I((3,), 7)], T((3, 5))),
        plain(T((4, 7, 5)), [None, I((3,), 7)], T((4, 3, 1))),
        plain(T((7, 4, 5)), [I((3,), 7), None, I((3,), 5)], T((3, 4))),
        plain(T((7, 5)), [I((3,), 7)], T(()), True),
        plain(T((3, 5)), [B((3,))], T(())),
        plain(T((3, 5, 4)), [B((3, 5))], T((4,))),
    ],
    "index_add.default": [plain(T((7, 5)), 0, I((3,), 7), T((3, 5))), plain(T((4, 7)), -1, I((3,), 7), T((4, 3)))],
    "index_copy.default": [plain(T((7, 5)), 0, I((3,), 7), T((3, 5)))],
    "index_fill.int_Scalar": [plain(T((7, 5)), 0, I((3,), 7), 2.0)],
    "index_fill.int_Tensor": [plain(T((7, 5)), 0, I((3,), 7), T(()))],
    "histc.default": [plain(T((4, 7)), 5, -1, 1)],
    "bincount.default": [plain(I((9,), 4))],
    "searchsorted.Tensor": [
        plain(V((0.0, 1.0, 2.0, 3.0)), T((3, 5), low=0.1)),
        plain(V(((0.0, 1.0, 2.0), (0.5, 1.0, 1.5))), T((2, 4), low=0.1)),
    ],
    "bucketize.Tensor": [plain(T((3, 5), low=0.1), V((0.0, 1.0, 2.0, 3.0)))],
    "masked_scatter.default": [plain(T((4, 3)), B((4, 3)), T((12,)))],
    "slice_scatter.default": [
        plain(T((4, 7)), T((4, 3)), 1, 2, 5),
        plain(T((4, 7)), T((4, 4)), 1, 0, 4),
        plain(T((4, 7)), T((4, 4)), 1, 3, END),
        plain(T((4, 7)), T((4, 4)), 1, -4, END),
        plain(T((4, 7)), T((4, 3)), 1, 1, END, 2),
        plain(T((4, 7)), T((4, 1)), 1, 2, 3),
        plain(T((4, 7)), T((4, 7))),
    ],
    "select_scatter.default": [plain(T((4, 7)), T((4,)), 1, 3), plain(T((4, 7)), T((7,)), 0, 1)],
    "diagonal.default": [plain(T((4, 5, 5)), 0, 1, 2)],
    "tril.default": [plain(T((3, 4, 5)))],
    "triu.default": [plain(T((3, 4, 5)))],
    "arange.default": [plain(5)],
    "arange.start": [plain(2, 7)],
    "arange.start_step": [plain(0, 8, 2)],
    "randperm.default": [plain(5)],
    "logspace.default": [plain(0, 1, 5)],
    "tril_indices.default": [plain(4, 4)],
    "linspace.default": [plain(0, 1, 5)],
    "eye.default": [plain(5)],
    "full.default": [plain([4, 3], 2.0)],
    "zeros.default": [plain([4, 3])],
    "ones.default": [plain([4, 1, 3])],
    "empty.memory_format": [plain([4, 3])],
    "new_zeros.default": [plain(T((2,)), [4, 3])],
    "new_ones.default": [plain(T((2,)), [4, 3])],
    "new_full.default": [plain(T((2,)), [4, 3], 2.0)],
    "new_empty.default": [plain(T((2,)), [4, 3])],
    "rand.default": [plain([4, 3])],
    "randn.default": [plain([4, 3])],
    "scalar_tensor.default": [plain(2.0)],
    "one_hot.default": [plain(I((3, 4), 6), 6)],
    "meshgrid.indexing": [
        ([[T((3,)), T((4,))]], {"indexing": "ij"}),
        ([[T((3,)), T((4,)), T((5,))]], {"indexing": "xy"}),
    ],
}

SAMPLES = {**SHAPE, **PIECES, **REPEAT, **INDEX}
