"""The documents agree with the code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from asof.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_cli_reference_is_up_to_date() -> None:
    """docs/cli.md is what docs/generate_cli.py makes of the commands' help."""
    page = ROOT / "docs" / "cli.md"

    assert page.read_text() == runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))["render"]()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project, and to a heading in it, exists."""
    targets = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    missing = [t for t, _ in targets if t and not (page.parent / t).exists()]
    headless = [f"{t}#{a}" for t, a in targets if a and a not in _anchors((page.parent / t) if t else page)]

    assert not missing
    assert not headless


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_verbs_that_documents_name_exist(page: Path) -> None:
    """Every ``asof verb`` that a document mentions is a verb."""
    named = set(
        re.findall(
            r"(?:^|[`$ ])asof ([a-z]+)\b(?=[^a-z])",
            "\n".join(re.findall(r"`[^`]+`|^    .*$|^\$.*$", page.read_text(), re.MULTILINE)),
        )
    )

    assert named <= set(COMMANDS)
