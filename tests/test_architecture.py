"""The house: imports go one way, there is no circle, files and functions stay readable."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("errors", "ir", "axes", "rules", "coupling", "emitters", "measure", "page", "pipeline", "view", "cli")
ALLOWED = {
    "errors": set(),
    "ir": {"errors"},
    "axes": {"errors"},
    "rules": {"errors", "ir", "axes"},
    "coupling": {"errors", "ir", "axes", "rules"},
    "emitters": {"errors", "ir", "axes", "rules", "coupling"},
    "measure": {"errors", "ir", "axes", "rules", "coupling", "emitters"},
    "page": {"errors", "ir", "axes", "rules", "coupling", "emitters", "measure"},
    "pipeline": {"errors", "ir", "axes", "rules", "coupling", "emitters", "measure", "page"},
}
LIMIT_FILE, LIMIT_FUNCTION = 300, 60


def sources() -> list[Path]:
    return sorted([*(ROOT / "graphc").rglob("*.py"), *(ROOT / "passes").rglob("*.py")])


def module_name(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts if relative.parts[0] == "graphc" else ("graphc", *relative.parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Modules that a file imports, wherever in the file; relative ones resolved."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def graph() -> nx.DiGraph[str]:
    modules = {module_name(path): path for path in sources()}
    result: nx.DiGraph[str] = nx.DiGraph()
    for name, path in modules.items():
        result.add_edges_from((name, other) for other in imports(path) & set(modules) if other != name)
    return result


def test_no_import_circle() -> None:
    circles = [c for c in nx.strongly_connected_components(graph()) if len(c) > 1]
    assert circles == []


@pytest.mark.parametrize("layer", list(ALLOWED))
def test_imports_go_one_way(layer: str) -> None:
    wrong = [
        (name, other)
        for name, other in graph().edges
        if name.split(".")[1:2] == [layer] and other.split(".")[1:2] not in [[x] for x in (*ALLOWED[layer], layer)]
    ]
    assert wrong == []


def test_the_compiler_knows_no_pass() -> None:
    wrong = [e for e in graph().edges if e[1].startswith("graphc.passes") and not e[0].startswith("graphc.passes")]
    assert wrong == []


def test_the_algebra_knows_no_graph() -> None:
    for path in (ROOT / "graphc" / "axes").glob("*.py"):
        assert not {name for name in imports(path) if name.startswith("torch.fx")}, path


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LIMIT_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LIMIT_FUNCTION, node.name
