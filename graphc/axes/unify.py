"""Unification: make two dimensions the same axis, refining leaves where they must be.

Every function changes leaves for good, so that all tensors see the result; where no common
refinement exists both sides are pinned, with the place and the two expressions as the reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from graphc.axes.axis import Axis, describe, factors, leaf, leaves, product, terms, total

Where = Callable[[], str]
"""Says where in the program we are; called only when there is something to report."""

ONE_UNIT = "a single unit picked by position"


def unify(a: Axis | None, b: Axis | None, where: Where) -> None:
    """Make two dims the same axis. A dim of size 1 (None) matches anything."""
    if a is None or b is None:
        return
    a, b = a.root(), b.root()
    if a is b:
        return
    if a.size != b.size:
        conflict(a, b, where)
    elif a.kind == "leaf":
        _become(a, b, where)
    elif b.kind == "leaf":
        _become(b, a, where)
    elif a.kind == b.kind == "sum":
        _unify_sums(a, b, where)
    elif a.kind == b.kind == "product":
        _unify_products(a, b, where)
    else:
        _unify_product_with_sum(*((a, b) if a.kind == "product" else (b, a)), where)


def conflict(a: Axis, b: Axis, where: Where) -> None:
    """Pin both sides: they meet, and share no boundary."""
    why = f"{describe(a)} meets {describe(b)} without a common boundary at {where()}"
    a.pin(why)
    b.pin(why)


def divide(axis: Axis, outer: int, where: Where) -> tuple[Axis, Axis] | None:
    """See an axis as (outer, inner) with the given number of outer units, or None if it is not."""
    axis = axis.root()
    inner = axis.size // outer
    if outer * inner != axis.size:
        return None
    if axis.kind == "leaf":
        pair = leaf(outer, like=axis), leaf(inner, like=axis)
        axis.parent = Axis(axis.size, "product", pair)
        return pair
    if axis.kind == "sum":
        return _divide_sum(axis, inner, where)
    taken = take(deque(factors(axis)), [outer, inner], where)
    if taken is None or taken[0] is None or taken[1] is None:
        return None
    return taken[0], taken[1]


def _divide_sum(axis: Axis, inner: int, where: Where) -> tuple[Axis, Axis] | None:
    """(a + b) with equal inner parts is ((outer a + outer b) inner)."""
    outers: list[Axis] = []
    common: Axis | None = None
    group: list[Axis] = []
    for term in terms(axis):
        group.append(term)
        size = sum(t.size for t in group)
        if size % inner:
            continue
        if size == inner:
            part: tuple[Axis, Axis] | None = leaf(1, ONE_UNIT), total(group)
        else:
            part = divide(group[0], size // inner, where) if len(group) == 1 else None
        if part is None:
            return None
        outers.append(part[0])
        if common is None:
            common = part[1]
        else:
            unify(common, part[1], where)
        group = []
    if group or common is None:
        return None
    return total(outers), common


def cut(axis: Axis, first: int, where: Where) -> tuple[Axis, Axis] | None:
    """See an axis as a sum whose first term has the given size, or None if it is not."""
    axis = axis.root()
    if axis.kind == "leaf":
        pair = leaf(first, like=axis), leaf(axis.size - first, like=axis)
        axis.parent = Axis(axis.size, "sum", pair)
        return pair
    if axis.kind == "sum":
        return _cut_sum(axis, first, where)
    outer, *rest = factors(axis)
    inner = product(rest)
    assert inner is not None
    if first % inner.size:
        return None
    halves = cut(outer, first // inner.size, where)
    if halves is None:
        return None
    low, high = product([halves[0], inner]), product([halves[1], inner])
    assert low is not None
    assert high is not None
    return low, high


def _cut_sum(axis: Axis, first: int, where: Where) -> tuple[Axis, Axis] | None:
    low: list[Axis] = []
    high = deque(terms(axis))
    room = first
    while room:
        term = high.popleft()
        if term.size > room:
            halves = cut(term, room, where)
            if halves is None:
                return None
            term = halves[0]
            high.appendleft(halves[1])
        low.append(term)
        room -= term.size
    return total(low), total(high)


def take(queue: deque[Axis], sizes: list[int], where: Where) -> list[Axis | None] | None:
    """Group factors (outer first) into dims of the given sizes, dividing where a boundary falls.

    Returns one axis a size (None for size 1), or None if some boundary cannot be made.
    """
    dims: list[Axis | None] = []
    for size in sizes:
        parts: list[Axis] = []
        room = size
        while room > 1:
            if not queue:
                return None
            axis = queue.popleft().root()
            if axis.kind == "product":
                queue.extendleft(reversed(factors(axis)))
            elif room % axis.size == 0:
                parts.append(axis)
                room //= axis.size
            else:
                pair = divide(axis, room, where) if axis.size % room == 0 else None
                if pair is None:
                    return None
                parts.append(pair[0])
                queue.appendleft(pair[1])
                room = 1
        dims.append(product(parts))
    return dims


def _become(one: Axis, other: Axis, where: Where) -> None:
    if other.kind != "leaf" and one in leaves(other):
        conflict(one, other, where)
        return
    one.parent = other
    if one.pinned is not None:
        other.pin(one.pinned)
    if one.mixed:
        other.mix()
    for role in one.roles:
        other.play(role)


def _unify_sums(a: Axis, b: Axis, where: Where) -> None:
    left, right = deque(terms(a)), deque(terms(b))
    while left and right:
        x, y = left.popleft().root(), right.popleft().root()
        if x.kind == "sum" or y.kind == "sum":  # refined by an earlier term
            left.extendleft(reversed(terms(x)))
            right.extendleft(reversed(terms(y)))
            continue
        if x.size > y.size:
            halves = cut(x, y.size, where)
            if halves is None:
                return conflict(a, b, where)
            x = halves[0]
            left.appendleft(halves[1])
        elif y.size > x.size:
            halves = cut(y, x.size, where)
            if halves is None:
                return conflict(a, b, where)
            y = halves[0]
            right.appendleft(halves[1])
        unify(x, y, where)
    return None


def _unify_products(a: Axis, b: Axis, where: Where) -> None:
    left, right = deque(factors(a)), deque(factors(b))
    while left and right:
        x, y = left.popleft().root(), right.popleft().root()
        if x.kind == "product" or y.kind == "product":
            left.extendleft(reversed(factors(x)))
            right.extendleft(reversed(factors(y)))
            continue
        if x.size != y.size:
            big, small, queue = (x, y, left) if x.size > y.size else (y, x, right)
            pair = divide(big, small.size, where) if big.size % small.size == 0 else None
            if pair is None:
                return conflict(a, b, where)
            queue.appendleft(pair[1])
            x, y = pair[0], small
        unify(x, y, where)
    return None


def _unify_product_with_sum(prod: Axis, addition: Axis, where: Where) -> None:
    outer, *rest = factors(prod)
    pair = _divide_sum(addition, addition.size // outer.size, where)
    if pair is None:
        return conflict(prod, addition, where)
    unify(outer, pair[0], where)
    return unify(product(rest), pair[1], where)
