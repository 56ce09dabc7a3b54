"""Is a moved value what its description says? It is made again from its origin, by the atoms alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

import graphc
from graphc.emitters.fusions import restate
from graphc.emitters.moves import Moved, Origin, follow

aten = torch.ops.aten


class Values(Interpreter):
    """Keeps the value of every node."""

    def __init__(self, program: graphc.Program) -> None:
        super().__init__(program.module)
        self.seen: dict[Node, Any] = {}
        self.run(*torch.utils._pytree.tree_leaves(program.example()))

    def run_node(self, n: Node) -> Any:
        self.seen[n] = super().run_node(n)
        return self.seen[n]

    def origin(self, origin: Origin) -> Tensor:
        """What the origin holds, also where it is an op that would come before the moves."""
        if origin.before is None:
            return self.seen[origin.node]
        others = torch.fx.node.map_arg(tuple(origin.node.args[1:]), self.seen.__getitem__)
        return origin.node.target(self.origin(origin.before), *others)

    def again(self, moved: Moved) -> Tensor:
        """The moved value made of its origin: all atoms apart, the chosen ones taken, the rest in the order of dims."""
        atoms = [atom for dim in moved.whole for atom in dim]
        value = self.origin(moved.origin).reshape([number(atom.size) for atom in atoms])
        for position in reversed(range(len(atoms))):
            if atoms[position].index is not None:
                value = value.select(position, atoms[position].index)
        free = [atom for atom in atoms if atom.index is None]
        value = value.permute([free.index(atom) for dim in moved.dims for atom in dim])
        return value.reshape([int(torch.tensor([number(atom.size) for atom in dim]).prod()) for dim in moved.dims])


def number(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


class Does(nn.Module):
    """Whatever a function does to a tensor and a linear layer."""

    def __init__(self, function: Callable[[Tensor, nn.Linear], Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(24, 36)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.linear)


def packed(x: Tensor, linear: nn.Linear) -> Any:
    """As in timm."""
    return linear(x).reshape(x.shape[0], 7, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)


def sequence_first(x: Tensor, linear: nn.Linear) -> Any:
    """As in torch.nn.MultiheadAttention."""
    batch = x.shape[0]
    split = linear(x.transpose(0, 1)).unflatten(-1, (3, 12)).unsqueeze(0).transpose(0, -2).squeeze(-2).contiguous()
    return [split[i].view(7, batch * 4, 3).transpose(0, 1).view(batch, 4, 7, 3) for i in range(3)]


def windows(x: Tensor, linear: nn.Linear) -> Any:
    return linear(x.flatten(1).unflatten(1, (7, 2, 12)).permute(0, 2, 1, 3).reshape(-1, 24))


def ones(x: Tensor, linear: nn.Linear) -> Any:
    return linear(x.unsqueeze(1).transpose(0, 1)).squeeze().t().flatten()


@pytest.mark.parametrize("function", [packed, sequence_first, windows, ones], ids=lambda f: f.__name__)
def test_a_moved_value_is_its_origin_moved(function: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    program = graphc.capture(Does(function), (torch.randn(5, 7, 24) if function is not ones else torch.randn(5, 24),))
    values, found = Values(program), follow(program.graph)
    assert len(found) >= 3
    for node, moved in found.items():
        torch.testing.assert_close(values.again(moved), values.seen[node])
    assert any(moved.origin.before is not None for moved in found.values()) == (function in (sequence_first, ones))


def targets(program: graphc.Program) -> list[Any]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def same(program: graphc.Program) -> graphc.Program:
    """The program without moves that cancel, which gives what it gave."""
    args, kwargs = program.contract.resized(**{name: size + 2 for name, size in program.contract.dims().items()})
    found = restate(program)
    torch.testing.assert_close(found(*args, **kwargs), program(*args, **kwargs))
    return found


def test_moves_that_cancel_go() -> None:
    def there_and_back(x: Tensor, linear: nn.Linear) -> Tensor:
        return linear(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (7, -1)).transpose(0, 1).contiguous().relu()

    program = graphc.capture(Does(there_and_back), (torch.randn(5, 7, 24),))
    assert targets(same(program)) == [aten.linear.default, aten.relu.default]


def test_what_was_chosen_is_computed_alone() -> None:
    program = graphc.capture(Does(lambda x, linear: linear(x[:, 0])), (torch.randn(5, 7, 24),))
    linear = next(node for node in same(program).graph.nodes if node.target is aten.linear.default)
    assert linear.meta["val"].dim() == 2


def test_no_product_is_computed_twice() -> None:
    def read_twice(x: Tensor, linear: nn.Linear) -> Any:
        y = linear(x.transpose(0, 1))
        return y.transpose(0, 1).relu(), y.softmax(0)

    program = graphc.capture(Does(read_twice), (torch.randn(5, 7, 24),))
    assert targets(same(program)).count(aten.linear.default) == 1
