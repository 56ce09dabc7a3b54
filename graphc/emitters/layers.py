"""Layers that a program no longer has, and the copy of the original without them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from graphc.ir.capture import evaluating
from graphc.ir.program import Program

Kept = Mapping[str, Mapping[str, "str | None"]]
"""For each module that loses children: its path, and for each child its old and its new name, None if it goes."""

CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
INDICES = ("layer_idx", "layer_id", "layer_index")
"""Attributes by which the parts of a layer know its place in the list."""


def gone_modules(program: Program, original: nn.Module) -> list[str]:
    """Paths of the outermost modules that the original runs and of whose parameters the program uses none."""
    used = {*program.tensors(), *program.aliases}
    ran = _ran(program, original)
    gone: list[str] = []
    for path, module in original.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in gone)
        if not path or inside or ran.isdisjoint(module.modules()):
            continue
        names = [f"{path}.{name}" for name, _ in module.named_parameters(remove_duplicate=False)]
        if names and used.isdisjoint(names):
            gone.append(path)
    return gone


def _ran(program: Program, original: nn.Module) -> set[nn.Module]:
    """The modules whose forward is called on the example inputs."""
    ran: set[nn.Module] = set()
    args, kwargs = program.example()
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: ran.add(module))
    try:
        with evaluating(original):
            original(*args, **kwargs)
    finally:
        handle.remove()
    return ran


def choices(original: nn.Module, gone: list[str]) -> list[Kept]:
    """Ways of leaving modules out, best first: all of them, those that stand in lists, none."""
    listed = [path for path in gone if isinstance(_parent(original, path), CONTAINERS) or _is_list(original, path)]
    found: list[Kept] = []
    for paths in (gone, listed, []):
        kept = _kept(original, paths)
        if kept not in found:
            found.append(kept)
    return found


def _parent(module: nn.Module, path: str) -> nn.Module:
    return module.get_submodule(path.rpartition(".")[0])


def _is_list(module: nn.Module, path: str) -> bool:
    return isinstance(module.get_submodule(path), CONTAINERS)


def _kept(original: nn.Module, gone: list[str]) -> Kept:
    """A list that goes with all it has stays, empty; other modules lose the child."""
    kept: dict[str, Mapping[str, str | None]] = {}
    for path in gone:
        parent = _parent(original, path)
        if _is_list(original, path) and not isinstance(parent, CONTAINERS):
            kept[path] = dict.fromkeys(original.get_submodule(path)._modules)
        else:
            above = path.rpartition(".")[0]
            kept[above] = _names(parent, {p.rpartition(".")[2] for p in gone if p.rpartition(".")[0] == above})
    return kept


def _names(parent: nn.Module, go: set[str]) -> Mapping[str, str | None]:
    """Numbered children are numbered anew."""
    stay = [name for name in parent._modules if name not in go]
    numbered = isinstance(parent, CONTAINERS) and all(name.isdigit() for name in parent._modules)
    new = {name: str(i) if numbered else name for i, name in enumerate(stay)}
    return {name: new.get(name) for name in parent._modules}


def take_out(module: nn.Module, kept: Kept) -> None:
    """Leave children out of a copy of the original: of lists they go, elsewhere they become None."""
    parents = {path: module.get_submodule(path) for path in kept}
    for path, parent in parents.items():
        children = dict(parent._modules)
        parent._modules.clear()
        for old, child in children.items():
            new = kept[path][old]
            if new is not None:
                parent._modules[new] = child
                _renumber(child, old, new)
            elif not isinstance(parent, CONTAINERS):
                parent._modules[old] = None


def _renumber(child: nn.Module | None, old: str, new: str) -> None:
    if child is None or old == new:
        return
    for part in child.modules():
        for name in INDICES:
            if getattr(part, name, None) == int(old):
                setattr(part, name, int(new))


def renamed(name: str, kept: Kept) -> str | None:
    """A dotted name of the original as it is after layers were taken out; None if it went with one."""
    parts = name.split(".")
    new: list[str] = []
    for index, part in enumerate(parts):
        now = kept.get(".".join(parts[:index]), {}).get(part, part)
        if now is None:
            return None
        new.append(now)
    return ".".join(new)
