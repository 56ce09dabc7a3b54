"""What happens when the site is built: pages are made, drawings put in, and addresses looked at."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from generate import commands, drawings, parts, recipe, resources, results
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FOLDERS = ("reference/passes/", "results/")
PLACE = re.compile(r"^\{\{ (drawing|include) (\S+) \}\}$", re.MULTILINE)
ALONE = "---\nhide: [navigation]\n---\n\n"
COPIED = {"changelog.md": ("CHANGELOG.md", ALONE), "contributing.md": ("CONTRIBUTING.md", "")}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make all pages, and put those of whole folders into the navigation."""
    made = {**parts.pages(), **recipe.pages(), **commands.pages(), **results.pages()}
    made |= {page: f"{start}{(ROOT / source).read_text(encoding='utf-8')}" for page, (source, start) in COPIED.items()}
    config.extra["made"] = made
    config.nav = _filled(config.nav, made)
    return config


def _filled(nav: Any, made: dict[str, str]) -> Any:
    """The navigation, with all pages of a folder in the place of its name."""
    if isinstance(nav, list):
        return [_filled(entry, made) for entry in nav]
    if isinstance(nav, dict):
        return {title: _filled(entry, made) for title, entry in nav.items()}
    return sorted(_inside(nav, made), key=lambda page: not page.endswith("index.md")) if nav in FOLDERS else nav


def _inside(folder: str, made: dict[str, str]) -> list[str]:
    return [page for page in made if page.startswith(folder) and page.endswith(".md")]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that were made."""
    for path, text in config.extra.pop("made").items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Put drawings and files in the place of ``{{ drawing NAME }}`` and ``{{ include FILE }}``."""
    return PLACE.sub(lambda match: PLACES[match[1]](match[2]), markdown)


def _file(name: str) -> str:
    return f"```{Path(name).suffix[1:]}\n{(ROOT / name).read_text(encoding='utf-8').strip()}\n```"


PLACES: dict[str, Callable[[str], str]] = {"drawing": drawings.drawing, "include": _file}


def on_post_build(config: MkDocsConfig) -> None:
    """See that no page loads anything from elsewhere."""
    found = list(resources.external(Path(config.site_dir)))
    if found:
        raise PluginError("pages load from elsewhere:\n" + "\n".join(found))
