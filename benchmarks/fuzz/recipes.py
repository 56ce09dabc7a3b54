"""Strategies of recipes: options from the JSON schema, with values that make sense more often than not.

``WAYS`` has, for each pass, the options of which a recipe must give exactly one set; ``SENSE`` has what the schema
leaves open. One recipe in eight takes a pass as the schema alone admits it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graphc.passes.importance import CRITERIA
from graphc.passes.layer_importance import LAYER_CRITERIA
from graphc.passes.quantize.observers import METHODS
from graphc.passes.training.optimisation import OPTIMIZERS, SCHEDULES
from hypothesis import strategies as st

from benchmarks.fuzz.describe import Description, nets
from benchmarks.fuzz.nets import inputs, net
from benchmarks.fuzz.schema import Schema, from_schema, objects
from graphc.pipeline.recipe import recipe_schema

NET, DATA = "benchmarks.fuzz.nets:net", "benchmarks.fuzz.nets:data"
SCHEMA = recipe_schema()
PASSES: Mapping[str, Schema] = {
    one["properties"]["type"]["const"]: one for one in SCHEMA["properties"]["passes"]["items"]["oneOf"]
}
"""The schema of each pass."""

KEYS = [key for key in SCHEMA["properties"] if key not in ("passes", "model", "cache_dir", "import_from", "search")]
"""Keys of a recipe that some recipes have as the schema alone admits them."""

RATIO = st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.5, 0.7])
KINDS_OF_COST = st.sampled_from(["macs", "params", "bytes"])
BUDGET = st.dictionaries(KINDS_OF_COST, st.sampled_from(["60%", "75%", "85%", "90%", "95%"]), min_size=1, max_size=1)
STEPS = st.integers(1, 2)

LOSSES = {
    "classes": [[{"type": "cross-entropy"}], [{"type": "cross-entropy", "label_smoothing": 0.1}]],
    "values": [[{"type": "mse"}], [{"type": "mse", "weight": 0.5}]],
    "none": [[{"type": "mse"}]],
}
"""Losses by what labels the data has."""

TAUGHT: list[Any] = [
    [{"type": "kl", "temperature": 2.0}],
    [{"type": "logits-mse"}],
    [{"type": "logits-mse"}, {"type": "rkd-distance", "pairs": "last"}],
    [{"type": "kl"}, {"type": "similarity", "pairs": "last"}],
]
ALSO: Mapping[str, list[Any]] = {
    "classes": [
        "hinton",
        "hinton",
        [{"type": "dkd"}],
        [{"type": "logits-mse"}, {"type": "cross-entropy", "weight": 0.1}],
    ],
    "values": [[{"type": "kl"}, {"type": "mse"}]],
    "attention": [[{"type": "attention-relation", "pairs": "last"}], [{"type": "hint", "pairs": "last"}]],
}
"""Losses with a teacher; those that want labels, or attention."""

DURING = st.sampled_from(
    [
        [],
        [],
        [],
        [{"type": "freeze", "targets": ["re:.*bias"]}],
        [{"type": "gradual-sparsity", "sparsity": 0.5, "frequency": 1}],
        [{"type": "qat"}],
    ]
)
TRAINING = {
    "steps": STEPS,
    "epochs": st.just(1),
    "optimizer": st.one_of(st.sampled_from(["adamw", "sgd", "adam"]), st.sampled_from(sorted(OPTIMIZERS))),
    "learning_rate": st.sampled_from([1e-4, 1e-3, 1e-2]),
    "optimizer_options": st.just({}),
    "schedule": st.sampled_from(sorted(SCHEDULES)),
    "warmup": st.sampled_from([0, 0.5, 1]),
    "max_grad_norm": st.just(1.0),
    "compile": st.just(False),
    "data": st.just("train"),
    "labels": st.sampled_from([None, "labels"]),
    "max_drop": st.none(),
    "evaluate_every": st.sampled_from([None, 1]),
    "patience": st.none(),
    "during": DURING,
    "log": st.sampled_from([None, "csv"]),
}
NOTHING = st.none()
PRUNING = {
    "importance": st.one_of(st.sampled_from(["l1", "l2", "fpgm", "activation"]), st.sampled_from(sorted(CRITERIA))),
    "constraints": BUDGET,
    "latency_table": NOTHING,
    "sensitivity": NOTHING,
    "iterative_steps": st.integers(1, 2),
    "round_to": st.sampled_from([1, 2, 4]),
    "between": st.sampled_from([[], [], [{"type": "sparsify", "sparsity": 0.2}], [{"type": "recalibrate"}]]),
    "max_pruning_ratio": st.sampled_from([0.5, 0.8, 1.0]),
    "min_size": st.integers(1, 3),
    "pruning_ratios": st.just({}),
    "latency_dims": st.just({}),
}
LAYERS = {"importance": st.sampled_from(sorted(LAYER_CRITERIA)), "sensitivity": NOTHING}

AMOUNTS = [{"pruning_ratio": RATIO}, {"pruning_ratio": RATIO}, {"constraints": BUDGET}]
FIRST = st.just({"re:.*": [0]})
LENGTHS = [{"steps": STEPS}, {"steps": STEPS}, {"epochs": st.just(1)}]
WAYS: Mapping[str, Sequence[Mapping[str, st.SearchStrategy[Any]]]] = {
    "prune-filters": [*AMOUNTS, {"filters": FIRST}],
    "prune-heads": [*AMOUNTS, {"heads": FIRST}],
    "prune-width": [*AMOUNTS, {"units": FIRST}],
    "prune-layers": [
        {"pruning_ratio": RATIO},
        {"keep": st.sampled_from(["every second", "first and last"])},
        {"layers": st.just([0])},
    ],
    "sparsify": [{"sparsity": RATIO}, {"sparsity": RATIO}, {"mask_structure": st.sampled_from(["2:4", "1:2"])}],
    "factorize": [
        {"rank": st.sampled_from([2, "50%", "75%"])},
        {"energy": st.sampled_from([0.7, 0.9, 0.99])},
        {"rank": st.one_of(st.integers(1, 3), st.sampled_from(["25%", "50%", "100%"]))},
        {"energy": st.sampled_from([0.5, 0.9, 1.0])},
        {"constraints": BUDGET},
    ],
    "finetune": LENGTHS,
    "distill": LENGTHS,
    "search-darts": [{"steps": STEPS}],
    "slice-elastic": [{"width": RATIO}, {"expand": st.sampled_from([0.5, 1, 2])}, {"depth": st.integers(0, 2)}],
    "select-outputs": [{"outputs": st.sampled_from([[0], [0], [1], [1], ["logits"]])}],
    "bind-input": [{"inputs": st.sampled_from([{"other": 0}, {"other": 1}, {"other": 1}, {"x": 1}])}],
}
"""For each pass, sets of options of which it wants exactly one."""

EXCLUSIVE = {
    "pruning_ratio", "constraints", "filters", "heads", "units", "keep", "layers", "sparsity", "mask_structure", "rank",
    "energy", "steps", "epochs", "losses", "outputs", "inputs", "name", "ties", "untie", "width", "expand", "depth",
}  # fmt: skip
"""Options that only a way gives."""

SENSE: Mapping[str, Mapping[str, st.SearchStrategy[Any]]] = {
    "prune-filters": PRUNING,
    "prune-width": PRUNING,
    "prune-heads": PRUNING,
    "prune-layers": LAYERS,
    "factorize": {"initialisation": st.sampled_from(["svd", "svd", "svd", "activation-aware"])},
    "discretize": {"exclude": st.just([])},
    "slice-elastic": {"blocks": st.just([]), "stages": st.just([]), "config": NOTHING},
    "tie-weights": LAYERS | {"parts": st.sampled_from([[], ["attention"], ["mlp"]])},
    "finetune": TRAINING,
    "distill": TRAINING | {"teacher": st.just("original")},
    "search-darts": TRAINING | {"architecture_options": st.just({}), "architecture_optimizer": st.just("adam")},
    "quantize": {
        "target": st.sampled_from(["auto", "auto", "onnxruntime-cpu", "torch", "openvino", "tensorrt"]),
        "calibration_method": st.sampled_from(sorted(METHODS)),
        "percentile": st.sampled_from([99.0, 99.99, 100.0]),
        "group_size": NOTHING,
        "smooth": st.sampled_from(["auto", 0, 0.5]),
        "min_sqnr_db": st.sampled_from([None, None, 10.0, 30.0]),
        "max_drop": NOTHING,
    },
}
"""For options of which the schema says less than the pass."""

COMMON = {
    "calibration_data": st.just("calibration"),
    "num_calibration_samples": st.sampled_from([None, 4, 7]),
}


@st.composite
def sensible(draw: st.DrawFn, kind: str, targets: Sequence[str], labels: str, attention: bool) -> Description:
    """A pass whose options are likely to be good ones."""
    schema = PASSES[kind]
    way = dict(draw(st.sampled_from(WAYS.get(kind, [{}]))))
    if "losses" in schema["properties"]:
        also = [one for name in (labels, *["attention"] * attention) for one in ALSO.get(name, [])]
        way["losses"] = st.sampled_from(TAUGHT + also if kind == "distill" else LOSSES.get(labels, LOSSES["classes"]))
    own = {**COMMON, **SENSE.get(kind, {})}
    own["loss"] = st.just("cross-entropy" if labels == "classes" else "mse")
    named = st.lists(st.sampled_from(targets), min_size=1, max_size=1)
    own |= {name: st.one_of(st.just([]), st.just([]), named) for name in ("targets", "ignore")}
    left = {name: part for name, part in schema["properties"].items() if name not in EXCLUSIVE | {"type"}}
    options = draw(objects({"properties": left}, own, most=3)) if left else {}
    return {"type": kind, **draw(st.fixed_dictionaries(way)), **options}


def wild(kind: str) -> st.SearchStrategy[Description]:
    """A pass as the schema alone admits it."""
    return objects(PASSES[kind])


FITS: Mapping[str, str] = {
    "prune-filters": r"'(conv|transposed)'.*'(conv|transposed|mlp|gated|dense)'|'(mlp|squeeze|gated)'",
    "prune-width": r"'(stack|encoder|mlp|gated|mix)'",
    "prune-heads": r"'(attention|multihead|encoder)'",
    "prune-layers": r"'(stack|encoder)'|'residual'.*'residual'",
    "tie-weights": r"'(stack|encoder)'",
    "recalibrate": r"'batch'",
    "discretize": r"'mixture'",
    "search-darts": r"'mixture'",
}
"""What a net must have for a pass to have something to do."""


def fitting(described: Description) -> list[str]:
    """Passes that have something to do in such a net, as far as its description tells."""
    text = str(described["blocks"])
    found = [kind for kind, pattern in FITS.items() if re.search(pattern, text)]
    pictures = described["kind"] == "image" or "picture" in text
    found = [kind for kind in found if kind != "prune-filters" or pictures]
    found = [kind for kind in found if kind != "prune-width" or not pictures or "totokens" in text]
    found += [kind for kind in found if kind.startswith("prune-")]
    found += ["sparsify", "factorize", "quantize"]
    found += ["finetune", "distill"] if described["weights"] != "frozen" else []
    found += ["select-outputs"] if described["outputs"] != "one" else []
    return found + (["bind-input"] if described.get("second") else [])


@st.composite
def passes(draw: st.DrawFn, described: Description, labels: str) -> list[Description]:
    """One to four passes with names of their own; most of them fit the net, and quantising comes last."""
    weighty = {name.rpartition(".")[0] for name, value in net(**described).named_parameters() if value.ndim > 1}
    names = [*sorted(weighty - {""}), "re:.*"]
    attention = re.search(FITS["prune-heads"], str(described["blocks"])) is not None
    kinds = draw(st.lists(st.sampled_from(fitting(described)), min_size=1, max_size=4))
    if draw(st.integers(0, 9)):
        kinds = [kind for kind in kinds if kind != "quantize"] + ["quantize"] * ("quantize" in kinds)
    made: list[Description] = []
    for kind in kinds:
        dice = draw(st.integers(0, 29))
        if dice == 29:
            one = draw(wild(draw(st.sampled_from(sorted(PASSES)))))
        else:
            other = draw(st.sampled_from(sorted(PASSES))) if dice == 28 else kind
            whole = other in ("prune-layers", "tie-weights")
            one = draw(sensible(other, ["re:.*"] if whole else names, labels, attention))
        taken = [other.get("name", other["type"]) for other in made]
        if one.get("name", one["type"]) in taken and draw(st.integers(0, 19)):
            one["name"] = f"{one['type']}-{len(made)}"
        made.append(one)
    return made


FILES = st.sampled_from([["m.onnx"], ["m.onnx"], ["m.onnx"], ["m/"], ["m/"], ["m.pt2"], ["m.onnx", "m/", "m.pt2"]])


@st.composite
def recipes(draw: st.DrawFn, emit: Sequence[str] | None = None) -> Description:
    """Whole recipes; ``emit``: the files of all of them."""
    described, dynamic = draw(nets())
    count = {"count": draw(st.integers(1, 3)), "batch": draw(st.sampled_from([6, 4, 7])) if dynamic else 5}
    labels = draw(st.sampled_from([*["classes"] * 6, *["values"] * 4, "none", "beyond"]))
    loader = {"target": DATA, "kwargs": {"described": described, "labels": labels, **count}}
    recipe: Description = {
        "model": {"target": NET, "kwargs": described},
        "example_inputs": inputs(described["kind"], described.get("second")),
        "data": {
            "train": loader,
            "validation": loader,
            "calibration": {**loader, "kwargs": {**loader["kwargs"], "seed": 1}},
        },
        "passes": draw(passes(described, labels)),
        "emit": list(emit) if emit else draw(FILES),
        "seed": draw(st.integers(0, 99)),
        "bench": None,
    }
    if dynamic is not None:
        recipe["dynamic"] = dynamic
    if draw(st.integers(0, 5)) == 0:
        recipe["metric"] = draw(
            st.sampled_from(["accuracy", "top-2", "f1", "perplexity"] if labels == "classes" else ["cosine"])
        )
        recipe["data"]["eval"] = loader
    if draw(st.integers(0, 5)) == 0:
        recipe["opset_version"] = draw(st.sampled_from([18, 20, 21, 23]))
    if draw(st.integers(0, 5)) == 0:
        recipe["optimize"] = "onnxruntime"
    if draw(st.integers(0, 24)) == 0:
        key = draw(st.sampled_from(KEYS))
        recipe[key] = draw(from_schema(SCHEMA["properties"][key], SCHEMA["$defs"]))
    return recipe
