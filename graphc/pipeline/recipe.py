"""Recipe: the YAML form of a compile, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
import yaml
from pydantic import BaseModel, Field

from graphc.errors import RecipeError, nearest
from graphc.pipeline.base import Pass, known_passes, make_pass
from graphc.pipeline.checked import options
from graphc.pipeline.named import check_size
from graphc.pipeline.search_section import Search
from graphc.pipeline.strict import Strict
from graphc.pipeline.targets import call_target


class Target(Strict):
    """Something to import and call."""

    target: str = Field(description="package.module:callable; for a model also a path or a Hugging Face id")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Arguments of the call.")


class ModelTarget(Target):
    """The model to compile, or a part of it."""

    part: str | None = Field(
        default=None,
        description="Path of a submodule, captured with what the model gives it (detectors: backbone).",
    )
    checkpoint: str | None = Field(
        default=None, description="Its weights: a .safetensors file, an index of shards, or a folder with one."
    )


class ExampleInput(Strict):
    """A tensor made from a description: normal floats, or uniform integers."""

    shape: list[int] = Field(description="Sizes; use ones that differ from each other and from the model's own.")
    dtype: str = Field(default="float32", description="A torch dtype.")
    low: int = Field(default=0, description="Least integer.")
    high: int = Field(default=2, description="One above the greatest integer.")
    fill: float | None = Field(default=None, description="One value everywhere instead of random ones.")


class Bench(Strict):
    """How latency is measured."""

    device: str = Field(default="cpu", description="cpu or cuda.")
    threads: int = Field(default=1, ge=1, description="Threads within one op.")
    batch: int = Field(default=1, ge=1, description="Batch size.")
    dims: dict[str, int] = Field(default_factory=dict, description="Sizes of other dynamic dims.")
    warmup: int = Field(default=5, ge=0, description="Runs before timing.")
    repeat: int = Field(default=30, ge=3, description="Runs that are timed.")


class Recipe(Strict):
    """Everything that one compile needs."""

    model: ModelTarget = Field(description="The model.")
    example_inputs: dict[str, ExampleInput] | Target = Field(
        default_factory=dict, description="Example inputs by name, or a target that gives them as a dict."
    )
    dynamic: dict[str, dict[int, str]] | None = Field(default=None, description="Dims that vary, by input.")
    data: dict[str, Target] = Field(default_factory=dict, description="Loaders by name: train, calibration, eval.")
    metric: str | None = Field(default=None, description="accuracy, top-5, f1, perplexity, cosine, or a target.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of everything random.")
    passes: list[dict[str, Any]] = Field(default_factory=list, description="Passes in the order in which they run.")
    emit: list[str] = Field(default_factory=list, description="Files to write: .onnx, .pt2, or a folder.")
    opset_version: int | None = Field(default=None, description="ONNX opset.")
    shard_size: int | str | None = Field(
        default=None, description="Most bytes of weights in one file of an emitted folder (2GB); 5GB by default."
    )
    low_memory: bool = Field(
        default=False, description="Leave weights in their files: each is read, sliced and written by itself."
    )
    optimize: str | None = Field(
        default=None, description="Runtime that ONNX files are written for, fused as it runs them fastest: onnxruntime."
    )
    bench: Bench | None = Field(default_factory=Bench, description="Latency; null measures none.")
    cache_dir: str | None = Field(
        default=None, description="Folder of results of passes, taken by every compile for which nothing has changed."
    )
    import_from: list[str] = Field(
        default_factory=list, description="Folders beside the recipe's own that targets may be in, relative to it."
    )
    search: Search | None = Field(default=None, description="What `graphc search` may choose; no compile reads it.")

    def make_passes(self) -> list[Pass]:
        """The passes, each checked.

        Raises:
            RecipeError: a type, option or value is wrong, or two passes have one name.
        """
        made = [make_pass(spec, f"passes[{i}]") for i, spec in enumerate(self.passes)]
        check_names(made)
        return made

    def with_search(self, **options: Any) -> Recipe:
        """The recipe with some options of its section ``search``, those that are not None."""
        if self.search is None:
            return self
        given = {name: value for name, value in options.items() if value is not None}
        return self.model_copy(update={"search": self.search.model_copy(update=given)})

    def inputs(self) -> dict[str, Any]:
        """Example inputs by name.

        Raises:
            RecipeError: a dtype is not known, or a target fails or gives no dict.
        """
        if isinstance(self.example_inputs, Target):
            made = call_target(self.example_inputs.target, self.example_inputs.kwargs, "example_inputs")
            if not isinstance(made, Mapping):
                why = f"it gave a {type(made).__name__}"
                raise RecipeError("example_inputs must be a dict of inputs by name", where="example_inputs", why=why)
            return dict(made)
        generator = torch.Generator().manual_seed(self.seed)
        return {name: make_input(name, spec, generator) for name, spec in self.example_inputs.items()}


def check_names(passes: Sequence[Pass]) -> None:
    """Names of passes must differ, so that reports can speak of them.

    Raises:
        RecipeError: two passes have one name.
    """
    seen: set[str] = set()
    for i, item in enumerate(passes):
        if item.title in seen:
            hint = f"give one of them a name of its own: {{type: {item.type}, name: {item.title}-2}}"
            raise RecipeError(f"two passes are called {item.title!r}", where=f"passes[{i}]", hint=hint)
        seen.add(item.title)


def make_input(name: str, spec: ExampleInput, generator: torch.Generator) -> torch.Tensor:
    """A tensor from its description.

    Raises:
        RecipeError: the dtype is not known, or no such tensor can be made.
    """
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        hint = nearest(spec.dtype, ["float32", "float16", "bfloat16", "int64", "int32", "bool"])
        raise RecipeError(f"no dtype is called {spec.dtype!r}", where=f"example_inputs.{name}", hint=hint)
    try:
        if spec.fill is not None:
            return torch.full(spec.shape, spec.fill, dtype=dtype)
        if dtype.is_floating_point:
            return torch.randn(spec.shape, generator=generator).to(dtype)
        return torch.randint(spec.low, spec.high, spec.shape, generator=generator).to(dtype)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        why = next(iter(str(error).splitlines()), "")
        raise RecipeError("the example input cannot be made", where=f"example_inputs.{name}", why=why) from error


def read_recipe(source: str | Path | Mapping[str, Any]) -> Recipe:
    """A recipe from a YAML file or from a mapping.

    Raises:
        RecipeError: the file is not readable, is no YAML, or has an unknown key (names the nearest)
            or a wrong value.
    """
    if isinstance(source, Mapping):
        values, where = source, "recipe"
    else:
        values, where = _read_yaml(Path(source)), str(source)
    try:
        return Recipe.model_validate(values)
    except pydantic.ValidationError as error:
        raise _explain(error, where) from error


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {str(path)!r}", why=str(error)) from error
    except yaml.YAMLError as error:
        raise RecipeError("the recipe is not valid YAML", where=str(path), why=str(error)) from error
    if not isinstance(values, Mapping):
        raise RecipeError("the recipe is empty or no mapping", where=str(path), hint="it needs at least `model`")
    check_size(values, str(path))
    return values


def _explain(error: pydantic.ValidationError, where: str) -> RecipeError:
    detail = error.errors()[0]
    path = [str(part) for part in detail["loc"] if part not in ("Target", "dict[str,ExampleInput]")]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        return RecipeError(f"unknown key {key!r}", where=where, hint=nearest(path[-1], known))
    if detail["type"] == "missing":
        return RecipeError(f"the key {key!r} is missing", where=where)
    why = f"{detail['msg']} (it is {detail['input']!r})"
    return RecipeError(f"the key {key!r} has a wrong value", where=where, why=why)


def _fields_at(path: list[str]) -> list[str]:
    kinds: dict[str, type[BaseModel]] = {
        "model": ModelTarget,
        "data": Target,
        "example_inputs": ExampleInput,
        "bench": Bench,
        "search": Search,
    }
    return list((kinds.get(path[0], Recipe) if path else Recipe).model_fields)


def _pass_schema(kind: type[Pass]) -> dict[str, Any]:
    summary = (kind.__doc__ or "").split("\n")[0]
    properties: dict[str, Any] = {"type": {"const": kind.type, "description": summary}}
    properties |= {name: adapter.json_schema() for name, adapter in options(kind).items()}
    return {"type": "object", "properties": properties, "required": ["type"], "additionalProperties": False}


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, with the options of every installed pass, for editors."""
    schema = Recipe.model_json_schema()
    schema["properties"]["passes"]["items"] = {"oneOf": [_pass_schema(kind) for kind in known_passes().values()]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "graphc recipe"
    return schema
