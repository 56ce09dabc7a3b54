"""Samples of recurrent layers and cells."""

from __future__ import annotations

from typing import Any

from tests.rules.engine import T

Sample = tuple[list[Any], dict[str, Any]]


def _layer(gates: int, read: int, units: int, biases: bool, projection: int | None = None) -> list[T]:
    fed = projection or units
    weights = [T((gates * units, read)), T((gates * units, fed))]
    weights += [T((gates * units,))] * 2 if biases else []
    return [*weights, T((projection, units))] if projection else weights


def _layers(
    gates: int,
    count: int = 1,
    both: bool = False,
    biases: bool = True,
    first: bool = False,
    units: int = 4,
    projection: int | None = None,
) -> Sample:
    """Time 3, batch 2 (the other way round if ``first``), 5 features."""
    directions, fed = 1 + both, projection or units
    states = [T((count * directions, 2, fed)), T((count * directions, 2, units))]
    weights = [
        tensor
        for layer in range(count)
        for _ in range(directions)
        for tensor in _layer(gates, 5 if layer == 0 else fed * directions, units, biases, projection)
    ]
    data = T((2, 3, 5)) if first else T((3, 2, 5))
    return [data, states if gates == 4 else states[0], weights, biases, count, 0.0, False, both, first], {}


def _cell(gates: int, biases: bool = True) -> Sample:
    states = [T((2, 4)), T((2, 4))]
    return [T((2, 5)), states if gates == 4 else states[0], *_layer(gates, 5, 4, biases)], {}


GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
SAMPLES: dict[str, list[Sample]] = {
    **{
        f"{kind}.input": [_layers(gates), _layers(gates, 2, both=True, first=True), _layers(gates, 2, biases=False)]
        for kind, gates in GATES.items()
    },
    **{f"{kind}_cell.default": [_cell(gates), _cell(gates, biases=False)] for kind, gates in GATES.items()},
}
SAMPLES["lstm.input"].append(_layers(4, 2, both=True, units=6, projection=3))
