"""The notebook of the documentation runs, and prints what is stored in it and what its text says."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.console_blocks import masked

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
STORED = json.loads(NOTEBOOK.read_text())
SAID = re.compile(r"(?<!\*)\*([^*\n]+)\*(?!\*)")
"""What the text quotes of the output above it is set in italics."""


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _printed(cell: Any) -> str:
    """The text of a cell's outputs; progress is left out, because only work of more than a second shows it."""
    outputs = [o for o in cell.get("outputs", ()) if o["output_type"] != "display_data"]
    return "\n".join("".join(o.get("text") or o["data"]["text/plain"]) for o in outputs)


@pytest.fixture(scope="module")
def ran() -> Any:
    """The notebook, run now."""
    return _module("execute_notebook").executed()


@pytest.mark.filterwarnings("default")  # of the notebook's tools
def test_the_notebook_prints_what_is_stored(ran: Any) -> None:
    """Every cell runs without an error and prints what is stored, but for figures; there are no paths of the machine in it."""
    assert len(ran.cells) == len(STORED["cells"])
    for cell, stored in zip(ran.cells, STORED["cells"], strict=True):
        now, before = ([masked(line) for line in _printed(one).splitlines()] for one in (cell, stored))
        assert now == before, "another output than is stored; to store it: python docs/execute_notebook.py"
        assert [o["text"] for o in cell.get("outputs", ()) if o.get("name") == "stderr"] == []
    for text in (json.dumps(ran.cells), NOTEBOOK.read_text()):
        assert not re.search(r"/(tmp|home|root|Users)/|site-packages|my répo", text)


def _quoted() -> Iterator[tuple[str, str]]:
    """What the text quotes, and the output above it."""
    above = ""
    for cell in STORED["cells"]:
        if cell["cell_type"] == "code":
            above = _printed(cell)
        else:
            yield from ((said, above) for said in SAID.findall("".join(cell["source"])))


def test_the_text_quotes_the_outputs() -> None:
    """What the text says was printed was printed by the cell above it."""
    quoted = list(_quoted())

    assert len(quoted) >= 5
    assert [said for said, above in quoted if said not in above] == []


def test_results_are_tables_on_the_page() -> None:
    """The page of the notebook shows results as HTML tables, escaped text where there is none, and no script or foreign address."""
    page = _module("notebook_page").page(STORED)

    assert page.count("<table>") >= 4
    assert page.count("```python") == sum(cell["cell_type"] == "code" for cell in STORED["cells"])
    assert not re.search(r"<script|https?://|src=", page)
