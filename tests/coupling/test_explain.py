from __future__ import annotations

import pytest

import graphc
from tests import models


def test_facts_of_a_residual_net() -> None:
    facts = graphc.explain(models.residual())
    axes = {axis.name: axis for axis in facts.axes}
    assert axes["conv1.out"].members[0] == ("conv1.weight", 0)
    assert axes["conv1.out"].coupled_by == []
    assert any("aten.add.Tensor" in op for op in axes["stem.out"].coupled_by)
    assert facts.pins["dim 1 of output output"] == ["head.out"]
    assert facts.without_rule == {}
    assert facts.warnings == []


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_scale_made_from_the_head_width_is_told(attention: str) -> None:
    model, inputs = models.tiny_bert(attention)
    facts = graphc.explain(graphc.capture(model, (), inputs))
    width = next(axis for axis in facts.axes if axis.name.endswith("head_dim"))
    assert len(facts.warnings) == len(facts.layers)
    assert all(f"the size {width.size} of" in warning for warning in facts.warnings)


def test_layers_tell_their_ends_and_parameters() -> None:
    program = models.transformer()
    facts = graphc.explain(program)
    own = {layer.name: layer.params for layer in facts.layers}
    for name, params in own.items():
        inside = [t.numel() for key, t in program.tensors().items() if key.startswith(name + ".")]
        assert params == sum(inside)
    assert len(own) >= 2
