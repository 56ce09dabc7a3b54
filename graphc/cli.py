"""The command line: compile, search, explain, bench, compare, sensitivity, cache, passes, schema.

Exit codes: 0 done, 1 an error inside graphc, 2 something to put right (a GraphError, with what,
where, why and what to do), 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from graphc import cli_bench, cli_cache, cli_latency, cli_search, view, view_compare
from graphc.coupling.explain import explain as explain_program
from graphc.errors import GraphError
from graphc.page.drawing import check_drawing, write_drawing
from graphc.pipeline.base import find_pass, known_passes
from graphc.pipeline.comparison import comparison
from graphc.pipeline.model import Model
from graphc.pipeline.plan import captured, plan
from graphc.pipeline.processes import is_first
from graphc.pipeline.recipe import Recipe, read_recipe, recipe_schema
from graphc.pipeline.run import run
from graphc.pipeline.sensitivity import sensitivity
from graphc.plot import find_plot

app = typer.Typer(
    help="Compile a PyTorch model: prune, verify, export, measure.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

RECIPES = (".yaml", ".yml")
INTERRUPTED = 130
"""What typer exits with when the user presses Ctrl-C."""

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def _console(as_json: bool) -> Console:
    """Where people read: standard error when standard output is for a machine."""
    return Console(stderr=as_json, highlight=False, quiet=not is_first())


def _read(path: Path) -> Recipe:
    """A recipe; its targets may be in modules beside it."""
    _import_from(path.parent)
    recipe = read_recipe(path)
    view.targets(Console(stderr=True, highlight=False, quiet=not is_first()), recipe)
    for other in recipe.import_from:
        _import_from(path.parent / other)
    return recipe


def _import_from(folder: Path) -> None:
    name = str(folder.resolve())
    if name not in sys.path:
        sys.path.insert(0, name)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@app.command("compile")
def compile_command(
    recipe: RecipeFile,
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder of artifacts and reports.")] = Path(
        "out"
    ),
    device: Annotated[str, typer.Option(help="Where passes that train run: cpu or cuda.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what an interrupted run left.")] = False,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Folder of results of passes, taken by every compile that they fit.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe: passes in order, each proven, then artifacts, report.html and report.json."""
    console = _console(as_json)
    with view.Progress(console) as progress:
        progress("reading", recipe)
        made = plan(_read(recipe), output_dir, device, resume, cache_dir, recipe.name)
        compilation = run(made, progress)
    if not is_first():
        return
    view.summary(console, compilation, output_dir)
    if as_json:
        _print_json(compilation.report)


@app.command()
def explain(
    recipe: RecipeFile,
    everything: Annotated[
        bool, typer.Option("--all", help="All members of every axis, and every pinned axis.")
    ] = False,
    svg: Annotated[Path | None, typer.Option(help="Draw the graph, or --axis, in this file.")] = None,
    axis: Annotated[str | None, typer.Option(help="The axis whose coupling --svg draws.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what can be cut, what is coupled to it, what cannot be cut and why, and the layers."""
    if axis is not None and svg is None:
        raise GraphError("--axis says what to draw", where="--axis", hint=f"add --svg {axis}.svg")
    if svg is not None:
        check_drawing(svg)
    program = captured(_read(recipe))
    if svg is not None:
        write_drawing(program, svg, axis)
        _console(True).print(f"drawn in {escape(str(svg))}", soft_wrap=True)
    facts = explain_program(program)
    if as_json:
        _print_json(facts.to_dict())
    else:
        view.explanation(_console(False), facts, everything)


@app.command("compare")
def compare_command(
    reference: Annotated[Path, typer.Argument(metavar="A", help="A recipe (its model), .pt2, a folder, or .onnx.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="The same; what is compared with A.")],
    samples: Annotated[int | None, typer.Option(min=1, help="Of a recipe's calibration or eval data.")] = None,
    dim: Annotated[list[str] | None, typer.Option(help="Size of a dynamic dim of the examples: batch=8.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show the worst steps alone, so many.")] = None,
    module: Annotated[bool, typer.Option("--module", help="One line for each module.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show value by value, in graph order, how far B is from A and where the error comes from."""
    a, b = (Model(path, _read(path) if path.suffix in RECIPES else None) for path in (reference, other))
    console = _console(as_json)
    with view.Progress(console) as progress:
        progress("reading", reference)
        dims = dict(view.size(text) for text in dim or [])
        found = comparison(a, b, samples, dims, lambda *now: progress("progress", now))
    if as_json:
        _print_json(found.to_dict())
    else:
        view_compare.deviations(console, found, top, module)


@app.command("sensitivity")
def sensitivity_command(
    recipe: RecipeFile,
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder of sensitivity.json and .svg.")] = Path(
        "out"
    ),
    ratios: Annotated[str, typer.Option(help="Shares to compress by.")] = "0.25,0.5,0.75",
    jobs: Annotated[int, typer.Option(min=1, help="Processes; each has the model and one thread.")] = 1,
    plot: Annotated[bool, typer.Option(help="Draw sensitivity.svg (needs matplotlib).")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compress one axis, layer or tensor at a time and show what the metric loses."""
    console = _console(as_json)
    drawing = find_plot() if plot else None
    with view.Progress(console) as progress:
        progress("reading", recipe)
        found = sensitivity(
            _read(recipe), output_dir, view.numbers(ratios), jobs, lambda *now: progress("progress", now)
        )
    if drawing is not None:
        drawing(found, output_dir / "sensitivity.svg")
    if as_json:
        _print_json(found.to_dict())
    else:
        view.losses(console, found)


@app.command()
def passes(
    name: Annotated[str | None, typer.Argument(help="Show the options of this pass.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the installed passes, or the options of one."""
    found = {name: find_pass(name)} if name else known_passes()
    if as_json:
        _print_json({key: view.pass_facts(kind) for key, kind in found.items()})
    elif name:
        view.pass_options(_console(False), found[name])
    else:
        view.pass_list(_console(False), found)


@app.command()
def schema(debug: Debug = False) -> None:
    """Print the JSON schema of recipes, for editors."""
    _print_json(recipe_schema())


cli_bench.add(app, _read)
cli_cache.add(app)
cli_latency.add(app, _read)
cli_search.add(app, _read)


def main() -> None:
    """The console script: runs a command and turns errors into messages and exit codes."""
    debug = "--debug" in sys.argv
    console = Console(stderr=True, highlight=False)
    try:
        app()
    except GraphError as error:
        if debug:
            raise
        view.error(console, error)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            console.print("interrupted; nothing was left half-written")
        raise
    except Exception as error:
        if debug:
            raise
        console.print(f"[red]an error inside graphc[/red]: {type(error).__name__}: {error}", soft_wrap=True)
        console.print("please report it with the output of the same command with --debug")
        sys.exit(1)


if __name__ == "__main__":
    main()
