"""What can be timed: a Program, a module, a callable or a file, with its inputs bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch.utils import _pytree as pytree

from graphc.coupling.cost import one_sample
from graphc.emitters.base import load
from graphc.errors import GraphError, nearest
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.measure.onnx_file import check_onnx

Inputs = torch.Tensor | tuple[Any, ...] | Mapping[str, Any] | None

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
IDS = 2
"""Made integers are below this: valid as tokens, positions and token types."""


@dataclass(frozen=True)
class Runnable:
    """Something to call without arguments, and what to call it.

    Attributes:
        run: one run on the bound inputs.
        name: for reports.
        backend: ``eager``, ``inductor`` or ``onnxruntime``.
        batch: dim 0 of the first input; 0 if there is none.
    """

    run: Callable[[], Any]
    name: str
    backend: str
    batch: int


def prepare(
    what: Any, inputs: Inputs, dims: Mapping[str, int], device: str, backend: str | None, threads: int, seed: int
) -> Runnable:
    """Load what is to be timed and bind its inputs; see ``benchmark`` for the arguments.

    Raises:
        GraphError: the file or backend is not there, or inputs are missing.
    """
    if isinstance(what, (str, Path)):
        path = Path(what)
        if not path.exists():
            raise GraphError("there is nothing to benchmark", where=str(path), why="the file does not exist")
        if path.suffix == ".onnx":
            return _onnx(path, inputs, dims, device, backend, threads, seed)
        name, what = path.name, load(path)
    else:
        name = getattr(what, "__name__", type(what).__name__)
    if isinstance(what, Program):
        what = make_permanent(what)
    if isinstance(what, Program) and inputs is None:
        args, kwargs = what.contract.resized(**{**one_sample(what), **dims})
    elif inputs is None:
        raise GraphError(f"cannot benchmark {name}", why="it has no inputs of its own", hint="give inputs=")
    else:
        args, kwargs = split_inputs(inputs)
    return _torch(what, args, kwargs, name, device, backend)


def split_inputs(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tensor, a tuple or a mapping as (args, kwargs)."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _torch(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, device: str, backend: str | None
) -> Runnable:
    if backend not in (None, "eager", "inductor"):
        raise GraphError(f"cannot run {name} with {backend!r}", hint=nearest(str(backend), ["eager", "inductor"]))
    function = module.module if isinstance(module, Program) else module
    _check_place(function, name, device)
    if backend == "inductor":
        function = torch.compile(function, dynamic=False)
    args, kwargs = pytree.tree_map(lambda v: v.to(device) if isinstance(v, torch.Tensor) else v, (args, kwargs))
    return Runnable(lambda: function(*args, **kwargs), name, backend or "eager", _batch((args, kwargs)))


def _check_place(function: Any, name: str, device: str) -> None:
    """A module is timed where it is: moving it would change it behind the user's back."""
    state = function.state_dict().values() if isinstance(function, torch.nn.Module) else ()
    place = next((t.device.type for t in state), device.partition(":")[0])
    if place != device.partition(":")[0]:
        raise GraphError(f"cannot run {name} on {device}", why=f"its parameters are on {place}", hint="move it first")


def _batch(inputs: Any) -> int:
    tensors = [v for v in pytree.tree_leaves(inputs) if isinstance(v, (torch.Tensor, np.ndarray))]
    return int(tensors[0].shape[0]) if tensors and tensors[0].ndim else 0


def _onnx(
    path: Path, inputs: Inputs, dims: Mapping[str, int], device: str, backend: str | None, threads: int, seed: int
) -> Runnable:
    if backend not in (None, "onnxruntime"):
        raise GraphError(f"cannot run {path.name} with {backend!r}", why="an .onnx file runs on onnxruntime")
    return bind_session(open_session(path, device, threads), path.name, inputs, dims, device, seed)


def bind_session(session: Any, name: str, inputs: Inputs, dims: Mapping[str, int], device: str, seed: int) -> Runnable:
    """A session with its inputs bound; on CUDA they lie on the device, and so do the outputs, in every run.

    Raises:
        GraphError: inputs are missing, or do not fit.
    """
    if inputs is None:
        feed = made_inputs(session.get_inputs(), dims, seed)
    else:
        feed = named_inputs(session, *split_inputs(inputs))
    run = (lambda: session.run(None, feed)) if device == "cpu" else run_on_device(session, feed, device)
    return Runnable(run, name, "onnxruntime", _batch(feed))


def run_on_device(session: Any, feed: Mapping[str, np.ndarray[Any, Any]], device: str) -> Callable[[], None]:
    """A run that copies nothing between host and device, and ends when its outputs are there."""
    kind, _, index = device.partition(":")
    binding = session.io_binding()
    for key, value in feed.items():
        binding.bind_ortvalue_input(key, ort.OrtValue.ortvalue_from_numpy(value, kind, int(index or 0)))
    for output in session.get_outputs():
        binding.bind_output(output.name, kind, int(index or 0))

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def open_session(path: Path, device: str = "cpu", threads: int = 1) -> Any:
    """An onnxruntime session.

    Raises:
        GraphError: onnxruntime cannot run the file, or not on this device.
    """
    provider = provider_of(device)
    check_onnx(path)
    return make_session(path, session_options(threads), provider)


def provider_of(device: str) -> Any:
    """What onnxruntime runs on a device with; on CUDA in torch's own stream, so that its events see the work.

    Raises:
        GraphError: this onnxruntime has none; in one line.
    """
    if not device.startswith("cuda"):
        return "CPUExecutionProvider"
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        why = "this onnxruntime has no CUDAExecutionProvider"
        raise GraphError(f"cannot run onnxruntime on {device!r}: {why}; install onnxruntime-gpu, or ask for 'cpu'")
    stream = torch.cuda.current_stream(device).cuda_stream
    options = {"device_id": torch.device(device).index or 0, "user_compute_stream": str(stream)}
    return ("CUDAExecutionProvider", options)


def session_options(threads: int) -> Any:
    """Options of a session: so many threads within one op (0: onnxruntime's choice), and no warnings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def write_optimised(options: Any, folder: Path) -> Path:
    """Have a session write the graph that it runs into a folder, without its weights, and return the file's path."""
    path = folder / "optimised.onnx"
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    return path


def make_session(path: Path, options: Any, provider: Any = "CPUExecutionProvider") -> Any:
    """A session with these options.

    Raises:
        GraphError: onnxruntime cannot run the file.
    """
    try:
        return ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's errors have no class in common
        why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise GraphError("onnxruntime cannot run this file", where=str(path), why=why) from error


def named_inputs(session: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Given inputs by the names of the session's inputs.

    Raises:
        GraphError: one is missing, or not known.
    """
    names = [spec.name for spec in session.get_inputs()]
    given = {**dict(zip(names, pytree.tree_leaves(args), strict=False)), **kwargs}
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        why = f"input {missing[0]!r} is missing" if missing else f"there is no input {unknown[0]!r}"
        raise GraphError("the inputs do not fit the .onnx file", why=why, hint=nearest((missing or unknown)[0], names))
    return {name: np.asarray(given[name]) for name in names}


def made_inputs(specs: Any, dims: Mapping[str, int], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs made from a session's specs: normal floats, integers that are valid ids.

    Raises:
        GraphError: the size of a dynamic dim is not given.
    """
    generator = np.random.default_rng(seed)
    known = {dim for spec in specs for dim in spec.shape if isinstance(dim, str)}
    for name in dims:
        if name not in known:
            raise GraphError(f"no dynamic dim is called {name!r}", hint=nearest(name, known))
    sizes = {"batch": 1, **dims}
    made = {}
    for spec in specs:
        shape = [_size(spec.name, dim, sizes) for dim in spec.shape]
        dtype = np.dtype(DTYPES[spec.type])
        if dtype.kind == "f":
            made[spec.name] = generator.standard_normal(shape).astype(dtype)
        elif dtype.kind == "b" or "mask" in spec.name:
            made[spec.name] = np.ones(shape, dtype)
        else:
            made[spec.name] = generator.integers(0, IDS, shape).astype(dtype)
    return made


def _size(name: str, dim: Any, dims: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim not in dims:
        hint = f"give dims={{{dim!r}: ...}} (--dim {dim}=...) or inputs="
        raise GraphError(f"cannot make the input {name!r}", why=f"the size of its dim {dim!r} is not known", hint=hint)
    return dims[dim]
