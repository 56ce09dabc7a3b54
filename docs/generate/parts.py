"""Reference of what a recipe names: passes, losses, hooks, importance, metrics, targets of quantisation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml
from graphc.passes.during import HOOKS
from graphc.passes.importance import CRITERIA
from graphc.passes.layer_importance import LAYER_CRITERIA
from graphc.passes.losses import LOSSES, PRESETS
from graphc.passes.quantize.target import find_target, known_targets

from generate.text import code, docstring, heading, table, values
from graphc.pipeline.base import Pass, known_passes
from graphc.pipeline.checked import Checked, default, options
from graphc.pipeline.metrics import METRICS
from graphc.pipeline.objective import LOSSES as OBJECTIVES

OPTIONS = ("option", "what it is", "values", "default")
IMPLIED = {"name": "Name in reports and errors, where the type does not tell two passes of a recipe apart."}


def ours() -> dict[str, type[Pass]]:
    """The passes that graphc brings."""
    return {name: kind for name, kind in known_passes().items() if kind.__module__.startswith("graphc.")}


def pages() -> dict[str, str]:
    """Markdown by the path of the page."""
    return {
        "reference/passes/index.md": _index(),
        **{f"reference/passes/{name}.md": _pass(name, kind) for name, kind in ours().items()},
        "reference/losses.md": _losses(),
        "reference/hooks.md": _hooks(),
        "reference/importance.md": _importance(),
        "reference/targets.md": _targets(),
    }


def _index() -> str:
    rows = ((f"[`{name}`]({name}.md)", heading(docstring(kind))) for name, kind in ours().items())
    intro = (
        "A pass stands in a recipe as `{type: NAME, option: value}`, and is a dataclass of `graphc.passes` in Python."
    )
    return f"# Passes\n\n{intro} `graphc passes` prints this list.\n\n{table(('pass', 'what it does'), rows)}\n"


def _pass(name: str, kind: type[Pass]) -> str:
    python = f"from graphc.passes import {kind.__name__}"
    needed = [code(option) for option in options(kind) if _default(kind, option) is dataclasses.MISSING]
    lines = [f"# {name}", docstring(kind), f"```python\n{python}\n```"]
    if needed:
        lines.append(f"Required: {', '.join(needed)}.")
    return "\n\n".join([*lines, "## Options", _options(kind)]) + "\n"


def _options(kind: type[Checked]) -> str:
    rows = []
    for option, adapter in options(kind).items():
        schema = adapter.json_schema()
        words = schema.get("description") or IMPLIED.get(option, "")
        rows.append((code(option), words, values(schema, schema.get("$defs")), _shown(_default(kind, option))))
    return table(OPTIONS, rows)


def _default(kind: type[Checked], option: str) -> Any:
    return default(next(field for field in dataclasses.fields(kind) if field.name == option))


def _shown(value: Any) -> str:
    return "required" if value is dataclasses.MISSING else code(json.dumps(value, default=list))


def _described(found: Mapping[str, type[Checked]]) -> str:
    parts = (f"## {name}\n\n{docstring(kind)}\n\n{_options(kind)}" for name, kind in sorted(found.items()))
    return "\n\n".join(parts)


def _losses() -> str:
    shown = {name: kind for name, kind in LOSSES.items() if kind.__module__.startswith("graphc.")}
    presets = "\n\n".join(_preset(name, terms) for name, terms in PRESETS.items())
    return (
        "# Losses\n\nTerms of `losses` in [`finetune`](passes/finetune.md), [`distill`](passes/distill.md) and "
        "[`search-darts`](passes/search-darts.md). A preset stands for a list of them: `losses: hinton`. "
        f"A loss of your own is named `package.module:Class` ([how](../extend/loss.md)).\n\n{_described(shown)}\n\n"
        f"## Presets\n\n{presets}\n"
    )


def _preset(name: str, terms: Iterable[Mapping[str, Any]]) -> str:
    listed = yaml.safe_dump({"losses": [dict(term) for term in terms]}, default_flow_style=None, sort_keys=False)
    return f"### {name}\n\n```yaml\n{listed}```"


def _hooks() -> str:
    shown = {name: kind for name, kind in HOOKS.items() if kind.__module__.startswith("graphc.")}
    return (
        "# Hooks of training\n\nEntries of `during` in [`finetune`](passes/finetune.md) and "
        f"[`distill`](passes/distill.md).\n\n{_described(shown)}\n"
    )


def _importance() -> str:
    units = {name: found.parts for name, found in CRITERIA.items()}
    return "\n\n".join(
        [
            "# Importance and metrics",
            "## Of units",
            "`importance` of `prune-filters`, `prune-heads` and `prune-width`.",
            _functions(units),
            "## Of layers",
            "`importance` of `prune-layers`.",
            _functions(LAYER_CRITERIA),
            "## Losses on labels",
            "`loss` of an importance that takes gradients; or `package.module:callable`.",
            _functions(OBJECTIVES),
            "## Metrics",
            "`metric` of a recipe; or `package.module:callable` of a program and batches. `top-5` is accuracy among "
            "the five greatest.",
            _functions(METRICS),
        ]
    )


def _functions(found: Mapping[str, Callable[..., Any]]) -> str:
    return "\n\n".join(f"### {name}\n\n{docstring(function)}" for name, function in sorted(found.items()))


def _targets() -> str:
    rows = []
    for name in known_targets():
        target = find_target(name)
        schemes = ", ".join(code(scheme) for scheme in target.schemes)
        rows.append((code(name), target.about, f"{target.values.dtype}, {target.weights.bits} bits", schemes))
    return (
        "# Targets of quantisation\n\n`target` of [`quantize`](passes/quantize.md): the runtime whose kernels are "
        "meant. A target is a YAML file; yours is named by its path.\n\n"
        f"{table(('target', 'runtime', 'values, weights', 'schemes'), rows)}\n"
    )
