"""On-demand functions are found by name and see the same plain values everywhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from asof.contract import Contract, on_demand
from asof.errors import ContractError

FUNCTIONS = """
def ratio(inputs):
    return {"ratio": [None if m is None else a / m for a, m in zip(inputs["amount"], inputs["mean_7d"])]}

def single(inputs):
    return {"ratio": None if inputs["mean_7d"] is None else inputs["amount"] / inputs["mean_7d"]}

def frame(inputs):
    return inputs.assign(ratio=inputs["amount"].astype(float) / inputs["mean_7d"].astype(float))[["ratio"]]

def short(inputs):
    return {"ratio": [1.0]}

def silent(inputs):
    return {}

def broken(inputs):
    raise ValueError(inputs["amount"])
"""
COLUMNS = {"amount": [10.0, 20.0, 30.0], "mean_7d": [5.0, None, 10.0], "limit": [1.0, 2.0, 3.0]}


@pytest.fixture
def with_function(contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The contract with its on-demand view computed by another function of a module on the path."""
    name = f"functions_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(attribute: str, **changes: object) -> Contract:
        return replace(contract, on_demand=(replace(contract.on_demand[0], function=f"{name}:{attribute}", **changes),))

    return make


@pytest.mark.parametrize(
    ("attribute", "changes"), [("ratio", {}), ("single", {"singleton": True}), ("frame", {"mode": "pandas"})]
)
def test_every_mode_gives_the_same_values(with_function, attribute: str, changes: dict) -> None:
    """Lists, single values and frames are three ways to the same features."""
    assert on_demand.compute(with_function(attribute, **changes), COLUMNS) == {"ratio": [2.0, None, 3.0]}


def test_no_rows_give_no_values(with_function) -> None:
    """An empty batch is computed to empty lists."""
    assert on_demand.compute(with_function("ratio"), {name: [] for name in COLUMNS}) == {"ratio": []}


@pytest.mark.parametrize(
    ("attribute", "message"),
    [("short", "returned 1 value"), ("silent", "did not return 'ratio'"), ("nothing", "cannot be imported")],
)
def test_a_wrong_function_is_named(with_function, attribute: str, message: str) -> None:
    """A function that is missing or returns something else is said by name."""
    with pytest.raises(ContractError, match=message):
        on_demand.compute(with_function(attribute), COLUMNS)


def test_a_failing_function_does_not_leak_values(with_function) -> None:
    """The error names the function and the kind of failure, not the values that it was given."""
    with pytest.raises(ContractError) as caught:
        on_demand.compute(with_function("broken"), COLUMNS)
    assert "10.0" not in str(caught.value)
