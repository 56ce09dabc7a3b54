from __future__ import annotations

import random
from collections import deque

import pytest
import torch

from graphc.axes.axis import Axis, describe, factors, leaf, leaves, measure, positions, product, total, units
from graphc.axes.unify import cut, divide, take, unify


def where() -> str:
    return "the place"


def prod(*sizes: int) -> Axis:
    axis = product(leaf(size) for size in sizes)
    assert axis is not None
    return axis


def add(*sizes: int) -> Axis:
    return total(leaf(size) for size in sizes)


def sizes(axis: Axis) -> list[int]:
    return [x.size for x in leaves(axis)]


def test_a_leaf_becomes_the_other_and_carries_its_marks() -> None:
    a, b = leaf(6, "stays"), prod(2, 3)
    a.mixed, a.roles = True, frozenset({"heads"})
    unify(a, b, where)
    assert a.root() is b
    assert [x.pinned for x in leaves(b)] == ["stays", "stays"]
    assert all(x.mixed and "heads" in x.roles for x in leaves(b))


def test_products_are_refined_to_their_common_boundaries() -> None:
    a, b = prod(4, 6, 5), prod(2, 12, 5)
    unify(a, b, where)
    assert sizes(a) == sizes(b) == [2, 2, 6, 5]
    assert leaves(a) == leaves(b)


def test_a_larger_factor_splits_where_the_smaller_ends() -> None:
    width, heads = leaf(768), prod(12, 64)
    unify(width, heads, where)
    third = prod(3, 4, 64)
    unify(width, third, where)
    assert sizes(width) == [3, 4, 64]


def test_sums_are_cut_at_the_union_of_their_boundaries() -> None:
    a, b = add(3, 5, 4), add(6, 6)
    unify(a, b, where)
    assert sizes(a) == sizes(b) == [3, 3, 2, 4]
    assert leaves(a) == leaves(b)


def test_equal_parts_of_a_sum_are_a_product_whose_outer_factor_stays() -> None:
    left, right = leaf(58), leaf(58)
    pair = prod(2, 58)
    unify(total([left, right]), pair, where)
    assert left.root() is right.root()
    outer = leaves(factors(pair)[0])
    assert [x.size for x in outer] == [1, 1]
    assert all(x.pinned for x in outer)
    assert left.root().pinned is None


def test_fused_projections_share_the_inner_axis() -> None:
    q, k, v = leaf(20), leaf(20), leaf(20)
    unify(prod(3, 20), total([q, k, v]), where)
    unify(q, prod(4, 5), where)
    assert sizes(v) == [4, 5]
    assert leaves(q) == leaves(k) == leaves(v)


def test_sums_with_a_common_inner_part_add_their_outer_parts() -> None:
    a, b = prod(4, 5), prod(2, 5)
    pair = divide(total([a, b]), 6, where)
    assert pair is not None
    outer, inner = pair
    assert sizes(outer) == [4, 2]
    assert inner.size == 5
    assert leaves(a)[1] is leaves(b)[1] is inner.root()
    assert all(x.pinned is None for x in leaves(outer))


def test_no_common_boundary_pins_both_and_says_where() -> None:
    a, b = prod(4, 9), prod(6, 6)
    unify(a, b, where)
    for axis in leaves(a) + leaves(b):
        assert axis.pinned is not None
        assert "the place" in axis.pinned


def test_different_sizes_are_a_conflict() -> None:
    a, b = leaf(4), leaf(5)
    unify(a, b, where)
    assert a.pinned == b.pinned == "4 meets 5 without a common boundary at the place"


def test_size_one_matches_anything() -> None:
    axis = leaf(4)
    unify(None, axis, where)
    unify(axis, None, where)
    assert axis.pinned is None


def test_an_axis_cannot_be_a_part_of_itself() -> None:
    a = leaf(4)
    whole = total([leaf(1), a])
    a.size = whole.size  # as a wrong graph would have it
    unify(a, whole, where)
    assert a.pinned is not None


def test_take_leaves_the_rest_in_the_queue() -> None:
    queue = deque(factors(prod(4, 6)))
    dims = take(queue, [8], where)
    assert dims is not None
    assert describe(dims[0]) == "(4 2)"
    assert [x.size for x in queue] == [3]
    assert take(deque(factors(prod(4, 6))), [5], where) is None


def test_cut_goes_through_the_outer_factor() -> None:
    a = prod(6, 5)
    halves = cut(a, 10, where)
    assert halves is not None
    assert [describe(h) for h in halves] == ["(2 5)", "(4 5)"]
    assert cut(prod(6, 5), 7, where) is None


def test_a_channel_shuffle_gives_back_what_went_in() -> None:
    a, b = leaf(6), leaf(6)
    joined = total([a, b])
    pair = divide(joined, 2, where)
    assert pair is not None
    shuffled = product([pair[1], pair[0]])
    assert shuffled is not None
    kept = {a.root(): [0, 3]}
    assert positions(shuffled, kept).tolist() == [0, 1, 6, 7]
    assert positions(joined, kept).tolist() == [0, 3, 6, 9]


def test_positions_of_a_product_are_a_rectangle() -> None:
    axis = prod(3, 4)
    heads, width = leaves(axis)
    assert positions(axis, {heads: [0, 2], width: [1, 3]}).tolist() == [1, 3, 9, 11]


def test_units_say_which_unit_a_position_belongs_to() -> None:
    a, b = leaf(2), leaf(3)
    axis = total([b, product([a, b]) or b])
    assert units(axis, a).tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 1]
    assert units(axis, b).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("seed", range(40))
def test_any_refinement_keeps_positions_and_sizes_consistent(seed: int) -> None:
    """Random views and cuts of one axis: every unit is somewhere once, and sizes say how many are left."""
    draw = random.Random(seed)
    whole = leaf(144)
    shapes = [[12, 12], [2, 72], [3, 48], [4, 6, 6], [16, 9], [144], [72, 2]]
    for _ in range(draw.randint(1, 4)):
        if draw.random() < 0.6:
            unify(whole, prod(*draw.choice(shapes)), where)
        else:
            first = draw.choice([36, 48, 72, 96])
            unify(whole, add(first, 144 - first), where)
    free = [x for x in dict.fromkeys(leaves(whole)) if x.pinned is None and x.size > 1]
    kept = {x: sorted(draw.sample(range(x.size), draw.randint(1, x.size))) for x in free if draw.random() < 0.7}
    left = positions(whole, kept)
    assert torch.equal(positions(whole, {}), torch.arange(144))
    assert len(left) == measure(whole, {x: len(units_) for x, units_ in kept.items()})
    assert len(set(left.tolist())) == len(left)
    for axis, chosen in kept.items():
        belongs = units(whole, axis)[left]
        assert set(belongs.tolist()) <= {*chosen, -1}
