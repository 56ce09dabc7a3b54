from __future__ import annotations

import pytest

from graphc.axes.axis import Axis, Layout, describe, leaf, leaves, product
from graphc.axes.notation import Match, broadcast, parse
from graphc.errors import GraphError


def where() -> str:
    return "here"


def match(text: str, *layouts: Layout) -> Match:
    pattern = parse(text)
    found = Match(pattern, {}, where)
    for operand, layout in zip(pattern.operands, layouts, strict=True):
        assert operand is not None
        found.read(operand, layout)
    return found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", "no '->'"),
        ("a ... -> a", "must come first"),
        ("a ? -> a", "unexpected '?'"),
        ("a, (b c -> a", "unexpected '('"),
    ],
)
def test_what_cannot_be_read_is_quoted(text: str, words: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert repr(text) in str(caught.value)


def test_one_line_is_parsed_once() -> None:
    assert parse("... i, o i, o -> ... o") is parse("... i, o i, o -> ... o")


def test_the_same_letter_is_the_same_axis() -> None:
    batch, i, j, o = leaf(2), leaf(5), leaf(5), leaf(7)
    found = match("... i, o i -> ... o", (batch, i), (o, j))
    assert i.root() is j.root()
    assert found.write(found.pattern.results[0], list) == (batch, o)


def test_a_product_takes_the_size_that_is_known() -> None:
    groups, channels = leaf(3), leaf(12)
    found = Match(parse("(g i), g -> i"), {"g": groups}, where)
    operand, other = found.pattern.operands
    assert operand is not None
    assert other is not None
    found.read(operand, (channels,))
    assert [x.size for x in leaves(channels)] == [3, 4]
    assert leaves(channels)[0] is groups.root()


def test_a_product_without_a_boundary_pins_and_says_where() -> None:
    channels = leaf(8)
    outer = leaf(3)
    found = Match(parse("(g i) -> i"), {"g": outer}, where)
    operand = found.pattern.operands[0]
    assert operand is not None
    found.read(operand, (channels,))
    assert channels.pinned is not None
    assert "here" in channels.pinned


def test_marks() -> None:
    kernel, channels = leaf(3), leaf(4)
    match("[k], ~c -> ", (kernel,), (channels,))
    assert kernel.pinned == "`k` of here"
    assert channels.mixed
    assert channels.pinned is None


def test_a_size_of_one_gives_way() -> None:
    axis = leaf(4)
    found = match("a, a -> a", (None,), (axis,))
    assert found.write(found.pattern.results[0], list) == (axis,)


def test_letters_of_the_result_alone_are_new_and_pinned() -> None:
    found = match("c -> c [p]", (leaf(4),))
    _, new = found.write(found.pattern.results[0], lambda: [4, 9])
    assert isinstance(new, Axis)
    assert (new.size, new.pinned) == (9, "`p` of here")


def test_too_few_dims_are_an_error_with_the_line() -> None:
    with pytest.raises(GraphError, match="a tensor of 1 dims meets 2 words"):
        match("a b -> a", (leaf(3),))


def test_broadcast_aligns_from_the_right() -> None:
    a, b, c = leaf(2), leaf(5), leaf(5)
    assert broadcast([(a, None, b), (None, c)], where) == (a, None, b)
    assert b.root() is c.root()
    assert describe(product([a, b])) == "(2 5)"
