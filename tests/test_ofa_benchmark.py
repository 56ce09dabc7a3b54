"""A small slice of the comparison with Once-for-All's own package, so that it cannot rot."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.peers import ofa


@pytest.fixture
def package() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own escapes and imports, of an older Python
        pytest.importorskip("ofa", reason=f"pip install --no-deps {ofa.PACKAGE}")


@pytest.mark.parametrize("family", ["proxyless", "resnets"])
def test_a_sub_network_is_the_packages_own(package: None, family: str) -> None:
    case = [case for case in ofa.CASES if case.family == family][-1]
    (result,) = ofa.prove_family(family, [case], random_cases=0, seed=1)
    assert ofa.good(result), result
    assert result.largest > 100 * ofa.LIMIT
    assert result.plain is None or result.plain > 100 * ofa.LIMIT


def test_a_claim_that_does_not_hold_is_seen(tmp_path: Path) -> None:
    case = ofa.Case("mobilenet_v3", {"ks": 3})
    result = ofa.Result(case, (10, 10), (5, 5), 0.0, 1.0, 1.0)
    unequal = ofa.Result(case, (10, 11), (5, 5), 2 * ofa.LIMIT, 1.0, 1.0)
    assert ofa.good(result)
    assert not ofa.good(unequal)
    assert ofa.finish([result], "here", tmp_path, Console(quiet=True)) == 0
    assert ofa.finish([result, unequal], "here", tmp_path, Console(quiet=True)) == 1
    assert "DOES NOT HOLD" in (tmp_path / "ofa.md").read_text()
