"""The names of dynamic dims."""

from __future__ import annotations

import pytest
import torch

from graphc.ir.specs import spec_of
from tests import models


@pytest.mark.parametrize(
    ("name", "dim"), [("{symbol}", "2*batch"), ("2*{symbol}", "batch")], ids=["a symbol", "a whole expression"]
)
def test_a_dim_has_the_name_of_its_expression_or_of_the_symbols_in_it(name: str, dim: str) -> None:
    (placeholder,) = models.transformer().graph.find_nodes(op="placeholder")
    value = placeholder.meta["val"]
    symbol = str(value.shape[0].node.expr)
    spec = spec_of("x", torch.cat([value, value]), {name.format(symbol=symbol): "batch"})
    assert spec.shape[0] == dim
