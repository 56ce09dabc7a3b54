"""Where a model depends on values: the parts in which a size or a branch does, and those that can be traced."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

TAGS = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
"""How torch marks ops whose result has as many entries as values say, and ops that give values to Python."""

PLAIN = (torch.Tensor, bool, int, float, str, type(None))
"""What torch.export takes as inputs and outputs, in any pytree."""

INSIDE = (Path(torch.__file__).parent, Path(__file__).parents[1])


class Dependence(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch
    """Runs a model once and sees what each submodule is given, and whether it depends on values.

    Attributes:
        reasons: for each module path (empty for the model itself) in which a size or a branch depends
            on values, the first op that makes it so, and its line.
        plain: for each module path that was called, whether it takes and gives tensors and plain
            values only.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch
        self.reasons: dict[str, str] = {}
        self.plain: dict[str, bool] = {}
        self._open: list[str] = []

    def watch(self, model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Run the model; whatever it raises goes through."""
        with ExitStack() as hooks, self:
            for path, module in model.named_modules():
                hooks.callback(module.register_forward_pre_hook(self._enter(path), prepend=True).remove)
                after = module.register_forward_hook(self._leave(path), with_kwargs=True, always_call=True)
                hooks.callback(after.remove)
            model(*args, **kwargs)

    def _enter(self, path: str) -> Any:
        return lambda module, args: self._open.append(path)

    def _leave(self, path: str) -> Any:
        def leave(module: torch.nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            self._open.pop()
            plain = all(isinstance(leaf, PLAIN) for leaf in pytree.tree_leaves((args, kwargs, result)))
            self.plain[path] = plain and self.plain.get(path, True)

        return leave

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(tag in func.tags for tag in TAGS) and not _counts_known(func, args):
            new = [path for path in self._open if path not in self.reasons]
            if new:
                line = user_line(traceback.extract_stack())
                self.reasons.update(dict.fromkeys(new, f"{func.overloadpacket} at {line}"))
        return func(*args, **(kwargs or {}))

    def traceable(self, model: torch.nn.Module) -> list[str]:
        """Paths of the largest submodules with parameters that depend on no value; [""] is the whole model."""
        return list(self._traceable(model, ""))

    def _traceable(self, module: torch.nn.Module, path: str) -> Iterator[str]:
        if self.plain.get(path) and path not in self.reasons:
            if next(module.parameters(), None) is not None:
                yield path
        else:
            for name, child in module.named_children():
                yield from self._traceable(child, f"{path}.{name}" if path else name)


def _counts_known(func: Any, args: tuple[Any, ...]) -> bool:
    """Indexing by integers gives as many entries as there are integers; only masks have to be counted."""
    if func is not torch.ops.aten.index.Tensor:
        return False
    return not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def user_line(frames: Iterable[traceback.FrameSummary]) -> str:
    """The innermost line that is neither torch's nor ours; empty if there is none."""
    own = [f for f in frames if not any(Path(f.filename).is_relative_to(p) for p in INSIDE)]
    own = [f for f in own if not f.filename.startswith("<")]
    return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
