"""The oracle: a compile ends with files that are equal to the program, or with a GraphError; nothing else.

What graphc proves of itself is proven again: files are run by onnxruntime, or loaded, on inputs that the compile
never saw, at another size too; prune passes are held against the program before with zeros for what is gone.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch.utils import _pytree as pytree

import graphc
from benchmarks.fuzz import byhand
from benchmarks.fuzz.nets import net
from graphc.emitters.base import find_emitter
from graphc.errors import EmitError, GraphError
from graphc.ir.program import Program
from graphc.measure.report import Step

EXACT = 2e-5
"""Largest relative difference of what is the same function in float32."""
PROOFS = ("is not equal to its program", "does not load in its own runtime", "does not run")


@dataclass(frozen=True)
class Outcome:
    """What came of one recipe.

    Attributes:
        kind: ``verified``, ``refused``, ``crashed`` (another exception) or ``wrong``.
        passes: those of the recipe.
        done: how many of them ran.
        why: the refusal in one line, or what is wrong.
        detail: a traceback, or the whole refusal.
        unproven: refused only because an artifact did not pass its own proof.
        checks: what was held against something: sliced programs, preserved functions, files.
        seconds: of the processor, for all of it.
    """

    kind: str
    passes: list[str]
    done: int = 0
    why: str = ""
    detail: str = ""
    unproven: bool = False
    checks: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class WrongError(AssertionError):
    """Something that graphc gave is not what it says."""


def judge(recipe: Mapping[str, Any]) -> Outcome:
    """Compile a recipe in a folder of its own, and look at all that comes of it."""
    start = time.process_time()
    names = [str(one.get("type")) for one in recipe["passes"]]
    steps: list[Step] = []
    checks: dict[str, int] = {}

    def watch(event: str, about: Any) -> None:
        if event == "captured":
            _unless_refused(_captured, recipe, about)
        if event == "done":
            steps.append(about[0])
            _unless_refused(_step, about[0], checks)

    def outcome(kind: str, why: str = "", detail: str = "", unproven: bool = False) -> Outcome:
        seconds = round(time.process_time() - start, 2)
        return Outcome(kind, names, len(steps), why, detail, unproven, checks, seconds)

    with tempfile.TemporaryDirectory(prefix="graphc-fuzz-") as folder:
        try:
            found = graphc.compile(recipe, output_dir=folder, watch=watch)
            _unless_refused(_finished, found, checks)
        except GraphError as error:
            why = f"{type(error).__name__}: {error.what}"
            unproven = isinstance(error, EmitError) and any(word in error.what for word in PROOFS)
            notes = getattr(error, "__notes__", [])
            return outcome("refused", why, "\n".join([str(error), *notes]), unproven)
        except WrongError as error:
            return outcome("wrong", str(error), traceback.format_exc())
        except Exception as error:  # noqa: BLE001 - that there is none is what is claimed
            return outcome("crashed", f"{type(error).__name__}: {error}"[:300], traceback.format_exc())
    return outcome("verified")


def _unless_refused(check: Callable[..., None], *given: Any) -> None:
    """A check in which a refusal is no answer: what graphc gave must do."""
    try:
        check(*given)
    except GraphError as error:
        raise WrongError(f"what graphc gave is refused by it: {error}") from error


def _captured(recipe: Mapping[str, Any], program: Program) -> None:
    """The program that was captured computes what the net does, but for what rounding does to the net itself."""
    model = net(**recipe["model"]["kwargs"])
    args, kwargs = _fresh(program, 0)
    with torch.no_grad():
        wanted, found = model(*args, **kwargs), program(*args, **kwargs)
        exact = model.double()(*(pytree.tree_map(_wide, given) for given in args), **pytree.tree_map(_wide, kwargs))
    _same(wanted, found, max(1e-5, 4 * _rounding(wanted, exact)), "the captured program")


def _wide(value: Any) -> Any:
    """A tensor of real numbers in double precision; all else as it is."""
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _rounding(given: Any, exact: Any) -> float:
    """The largest relative error of real outputs against those in double precision, where these are finite."""
    gaps = [0.0]
    for x, y in zip(*(_tensors(v) for v in (given, exact)), strict=True):
        finite = y.isfinite() & x.isfinite()
        if x.is_floating_point() and float(norm := y[finite].double().norm()) > 0:
            gaps.append(float((x[finite] - y[finite]).double().norm()) / float(norm))
    return max(gaps)


def _tensors(value: Any) -> list[torch.Tensor]:
    return [v for v in pytree.tree_leaves(value) if isinstance(v, torch.Tensor)]


def _step(step: Step, checks: dict[str, int]) -> None:
    """Passes that say what they do to the function did that."""
    kind = step.facts["type"]
    options = step.facts.get("options", {})
    if kind in byhand.SAME:
        gap = byhand.gap(step.before, step.after, {})
        if not gap <= 1e-4:
            raise WrongError(f"{step.name} changed the outputs by {gap:.2g}")
        checks["same"] = checks.get("same", 0) + 1
    if kind in byhand.CUTS and not options.get("mixed") and not options.get("between"):
        try:
            masked = byhand.masked(step.before, step.after)
        except AssertionError as error:
            raise WrongError(f"{step.name}: {error}") from error
        if masked is not None:
            gap = byhand.gap(masked, step.after, {})
            if not gap <= EXACT:
                raise WrongError(f"{step.name}: sliced and masked differ by {gap:.2g}")
            checks["sliced"] = checks.get("sliced", 0) + 1


def _finished(found: graphc.Compilation, checks: dict[str, int]) -> None:
    """Every file there is, and computes what the program does."""
    program = graphc.set_training(found.program, False)
    told = {one["name"]: one for one in found.report["artifacts"]}
    for artifact in found.artifacts:
        if not artifact.path.exists() or artifact.path.name not in told:
            raise WrongError(f"{artifact.path.name} is not there, or not in the report")
        run = _onnx(artifact.path) if artifact.kind == ".onnx" else graphc.load(artifact.path)
        allowed = find_emitter(artifact.path)().allowed(program)
        for seed in (0, 1):
            args, kwargs = _fresh(program, seed)
            with torch.no_grad():
                expected, given = program(*args, **kwargs), run(*args, **kwargs)
            limit = allowed(args, kwargs, expected) if callable(allowed) else allowed
            _same(expected, given, limit, artifact.path.name)
            checks["files"] = checks.get("files", 0) + 1
    count = sum(value.numel() for value in program.parameters())
    if found.report["after"]["params"] != count:
        raise WrongError(f"the report says {found.report['after']['params']} parameters, and there are {count}")


def _onnx(path: Path) -> Any:
    """A function that runs an ONNX file by onnxruntime, without graphc."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*args: Any, **kwargs: Any) -> list[torch.Tensor]:
        values = dict(kwargs) if kwargs else dict(zip(names, args))
        feed = {name: values[name].numpy() for name in names}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def _fresh(program: Program, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs that nobody saw, at another size for every seed above 0."""
    dims = program.contract.dims()
    args, kwargs = program.contract.resized(**{name: size + seed for name, size in dims.items()})
    generator = torch.Generator().manual_seed(seed + 17)

    def other(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator).to(value.dtype)
        return value.flatten()[torch.randperm(value.numel(), generator=generator)].view(value.shape)

    leaves, tree = pytree.tree_flatten((args, kwargs))
    return pytree.tree_unflatten([other(leaf) for leaf in leaves], tree)


def _same(expected: Any, given: Any, limit: float, where: str) -> None:
    """Both have the same tensors, but for a relative error.

    Raises:
        WrongError: they have not.
    """
    wanted, found = (_tensors(x) for x in (expected, given))
    if [(v.shape, v.dtype) for v in wanted] != [(v.shape, v.dtype) for v in found]:
        raise WrongError(f"{where}: other shapes or dtypes")
    for x, y in zip(wanted, found, strict=True):
        finite = x.isfinite()
        if not torch.equal(finite, y.isfinite()):
            raise WrongError(f"{where}: infinite elsewhere")
        a, b = x[finite].double(), y[finite].double()
        scale, gap = float(a.norm()), float((a - b).norm())
        eps = 4 * torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
        if not gap <= max(limit, eps) * (scale or 1.0):
            raise WrongError(f"{where}: differs by {gap / (scale or 1.0):.3g}, allowed is {max(limit, eps):.3g}")
