"""The search of DARTS against the same steps written by hand; what is interrupted goes on as if it had not been."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import torch
from graphc.passes import Discretize, Hook, SearchDarts
from graphc.passes.during import Actions
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import graphc
from graphc.errors import GraphError, RecipeError
from tests.passes.training.tasks import samples

pytest.importorskip("accelerate", reason="training needs the extra `train`")

RATE = 0.05
STEPS = 12


class Mixed(nn.Module):
    """A layer that mixes four candidates by alphas that are a plain tensor, as in DARTS, or a parameter."""

    def __init__(self, parameter: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(dropout)
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.last = nn.Linear(16, 3)
        alphas = torch.tensor([0.3, 0.1, -0.2, 0.0])
        self.alphas = nn.Parameter(alphas) if parameter else alphas

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(x)).relu())
        candidates = [x * 0.0, x, self.one(x), self.two(x).tanh()]
        return self.last(sum(w * c for w, c in zip(self.alphas.softmax(-1), candidates)))


def mixed(**options: Any) -> tuple[Mixed, graphc.Program]:
    torch.manual_seed(0)
    net = Mixed(**options).eval()
    return net, graphc.capture(net, (torch.randn(4, 6),))


def batches(first: int, last: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(part.split(8) for part in samples(96)), strict=True))[first:last]


DATA = {"train": batches(0, 6), "validation": batches(6, 11)}


def search(program: graphc.Program, data: Any = DATA, **options: Any) -> graphc.Compilation:
    run = {name: options.pop(name) for name in ("output_dir", "resume") if name in options}
    return graphc.compile(program, passes=[SearchDarts(steps=STEPS, **options)], data=data, **run)


def by_hand(net: Mixed, after: int = 0) -> Mixed:
    """Alternating steps, first order; biases and scales do not decay."""
    net = copy.deepcopy(net).train()
    net.alphas = nn.Parameter(net.alphas.detach().clone())
    weights = [p for p in net.parameters() if p is not net.alphas]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": 3e-4},
        {"params": [p for p in weights if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.025, momentum=0.9)
    searcher = torch.optim.Adam([net.alphas], lr=RATE, betas=(0.5, 0.999), weight_decay=1e-3)
    for step in range(STEPS):
        if step >= after:
            x, y = DATA["validation"][(step - after) % 5]
            searcher.zero_grad()
            F.cross_entropy(net(x), y).backward()
            searcher.step()
        for group in optimizer.param_groups:
            group["lr"] = 0.025 * (1 + math.cos(math.pi * step / STEPS)) / 2
        x, y = DATA["train"][step % 6]
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
    return net


@pytest.mark.parametrize(("parameter", "after"), [(True, 0.0), (False, 5), (False, 0.25)])
def test_steps_are_those_of_the_paper(parameter: bool, after: float) -> None:
    net, program = mixed(parameter=parameter)
    done = search(program, architecture_learning_rate=RATE, architecture_after=after)
    expected = by_hand(net, int(after * STEPS if after < 1 else after))
    found = done.program.tensors()
    assert isinstance(found["alphas"], nn.Parameter)
    assert float((found["alphas"] - net.alphas).detach().abs().max()) > 0.1
    state = expected.state_dict()
    for name, value in found.items():
        assert torch.allclose(value, state[name], atol=1e-5), name
    assert torch.equal(program.tensors()["alphas"], net.alphas)


def test_only_the_alphas_of_a_temperature() -> None:
    net, _ = mixed()
    net.register_buffer("temperature", torch.tensor(2.0))
    net.forward = lambda x: net.last(  # type: ignore[method-assign] # another mixture of the same parts
        sum(w * c for w, c in zip((net.alphas / net.temperature).softmax(-1), (x, net.one(x))))
    )
    net.alphas, net.last = torch.zeros(2), nn.Linear(16, 3)
    done = search(
        graphc.capture(net, (torch.randn(4, 16),)),
        {name: [(x.repeat(1, 3)[:, :16], y) for x, y in given] for name, given in DATA.items()},
    )
    assert isinstance(done.program.tensors()["alphas"], nn.Parameter)
    assert not isinstance(done.program.tensors()["temperature"], nn.Parameter)
    assert done.program.tensors()["temperature"] == 2


def test_the_report_says_what_was_found() -> None:
    _, program = mixed()
    done = search(program, architecture_learning_rate=RATE)
    choices = done.report["passes"][0]["facts"]["choices"]
    after = graphc.compile(done.program, passes=[Discretize()])
    assert choices == after.report["passes"][0]["facts"]["choices"]
    assert after.report["passes"][0]["facts"]["says"][0].endswith(choices[0]["edges"][0]["operation"])


@dataclass(frozen=True, kw_only=True)
class Stop(Hook):
    """The training ends in the middle of an epoch."""

    type: ClassVar[str] = "stop"
    step: Annotated[int, Field(description="After which step.")]
    armed: ClassVar[bool] = True

    def start(self, program: graphc.Program) -> Actions:
        def after(step: int, steps: int) -> None:
            if step == self.step and Stop.armed:
                raise KeyboardInterrupt

        return Actions(after=after)


def drawn(first: int, last: int) -> Any:
    x, y = samples(96)
    images = TensorDataset(x[first:last], y[first:last])
    return lambda: DataLoader(images, 8, shuffle=True, collate_fn=_noisy)


def _noisy(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = (torch.stack(part) for part in zip(*rows))
    return x + 0.1 * torch.randn_like(x), y


def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, program = mixed(dropout=0.3)
    data = {"train": drawn(0, 48), "validation": drawn(48, 88)}
    options = {
        "architecture_learning_rate": RATE,
        "checkpoint_every": 4,
        "during": [{"type": "tests.passes.training.test_search_darts:Stop", "step": 10}],
    }
    with pytest.raises(KeyboardInterrupt):
        search(program, data, output_dir=tmp_path, **options)
    monkeypatch.setattr(Stop, "armed", False)
    resumed = search(program, data, output_dir=tmp_path, resume=True, **options)
    undisturbed = search(program, data, **options)
    for name, value in undisturbed.program.tensors().items():
        assert torch.equal(value, resumed.program.tensors()[name]), name


def test_there_is_nothing_to_search() -> None:
    program = graphc.capture(nn.Linear(6, 3).eval(), (torch.randn(4, 6),))
    with pytest.raises(GraphError, match="no mixture of candidates"):
        search(program)


def test_what_a_search_needs() -> None:
    _, program = mixed()
    with pytest.raises(RecipeError, match="needs data called 'validation'"):
        search(program, {"train": DATA["train"]})
    with pytest.raises(RecipeError, match="no option 'momentun'"):
        SearchDarts(steps=1, architecture_optimizer="sgd", architecture_options={"momentun": 0.9})
    with pytest.raises(GraphError, match="cross-entropy needs labels"):
        search(program, {"train": DATA["train"], "validation": [x for x, _ in DATA["validation"]]})
