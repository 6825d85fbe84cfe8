"""The documents agree with the code, and the site builds from them without a warning."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from asof.cli import COMMANDS
from asof.serving.limits import PREFIX, Limits
from asof.tables import schema
from asof.training import model

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
CODE = ("asof", "serving", "training", "monitoring", "tests", "benchmarks", "deploy", "Makefile")
MAIN = (
    "tutorial",
    "concepts",
    "vocabulary",
    "configuration",
    "cli",
    "python",
    "architecture",
    "extending",
    "operations",
)


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def _nav() -> list[str]:
    """The pages in the navigation of the site."""
    pages: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, str):
            pages.append(node)
        for child in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
            walk(child)

    walk(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    return pages


def _described(page: Path, heading: str) -> set[str]:
    """The first column of the tables below ``heading`` (its text, or the line that introduces a table), without markup."""
    text = page.read_text()
    start = text.index(f"\n{heading}\n")
    section = re.split(r"\n#|\n`\w+`:\n", text[start + len(heading) + 1 :], maxsplit=1)[0]
    return {
        name for row in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }


def test_cli_reference_is_up_to_date() -> None:
    """docs/cli.md is what docs/generate_cli.py makes of the commands' help."""
    page = ROOT / "docs" / "cli.md"

    assert page.read_text() == runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))["render"]()


def test_python_reference_is_up_to_date() -> None:
    """docs/python.md is what docs/generate_python.py makes of the methods of `asof.open`."""
    page = ROOT / "docs" / "python.md"

    assert page.read_text() == runpy.run_path(str(ROOT / "docs" / "generate_python.py"))["render"]()


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
    """Every ``asof verb`` that a document mentions is a verb; ``lineage`` is the example of a plug-in."""
    named = set(
        re.findall(
            r"(?:^|[`$ ])asof ([a-z]+)\b(?=[^a-z])",
            "\n".join(re.findall(r"`[^`\n]+`|^    .*$|^\$.*$", page.read_text(), re.MULTILINE)),
        )
    )

    assert named - {"lineage"} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_documents_name_exist(page: Path) -> None:
    """Every path of the project's folders that a document names is a file or a folder."""
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    folders = ("asof", "training", "serving", "monitoring", "feature_repo", "tests", "benchmarks", "deploy", "docs")
    named = {
        path for text in inline for path in re.findall(rf"(?<![\w./-])(?:{'|'.join(folders)})/[\w./-]*", text)
        if not re.search(r"[<*]", text) and "/data/" not in path and not path.startswith("asof/shop/")  # a key in Redis
    }  # fmt: skip

    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    """No page is one that nothing links to, and the navigation names no page twice."""
    pages = [*ROOT.glob("docs/*.md"), *(p.with_suffix(".md") for p in ROOT.glob("docs/*.ipynb"))]
    assert sorted(_nav()) == sorted(p.name for p in pages)


def test_the_readme_links_to_the_main_pages() -> None:
    """A reader of the README finds the tutorial, the concepts, the references, and the pages for who carries on."""
    text = (ROOT / "README.md").read_text()

    assert [name for name in MAIN if f"(docs/{name}.md" not in text] == []


def test_every_key_of_the_stores_is_documented() -> None:
    """docs/configuration.md has the keys of the sections of feature_store.yaml, no more and no fewer."""
    from asof.feast.offline_store import DuckDBOfflineStoreConfig
    from asof.feast.online_store import RedisOnlineStoreConfig

    page = ROOT / "docs" / "configuration.md"
    assert _described(page, "## `offline_store`") == set(DuckDBOfflineStoreConfig.model_fields)
    assert _described(page, "## `online_store`") == set(RedisOnlineStoreConfig.model_fields)


def test_every_tag_of_tables_is_documented() -> None:
    """docs/configuration.md has all tags and types of table declarations."""
    page = ROOT / "docs" / "configuration.md"
    tags = {name for name in _described(page, "## Table tags") if name.startswith("asof.")}

    assert tags == {*schema._TAGS, *(f"{prefix}<name>" for prefix in schema._PREFIXES)}
    assert f"Types: {', '.join(f'`{name}`' for name in schema.TYPES)}." in page.read_text()


@pytest.mark.parametrize("name", ["Model", "LabelledRows", "Split", "Fit", "Metric", "Decision", "Suspicion"])
def test_every_field_of_model_declarations_is_documented(name: str) -> None:
    """docs/configuration.md has a table for each part of a model declaration, with all of its fields."""
    declared = [f.name for f in fields(getattr(model, name))]
    page = (ROOT / "docs" / "configuration.md").read_text()
    table = page[page.index(f"\n`{name}`:\n") :].split("\n\n")[1]

    assert re.findall(r"^\| `(\w+)` ", table, re.MULTILINE) == declared


def test_every_variable_is_documented() -> None:
    """docs/configuration.md has the variables ``ASOF_*`` that the code reads, no more and no fewer."""
    files = [
        p
        for name in CODE
        for p in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
        if p.is_file()
    ]
    own = {Path(__file__), *ROOT.glob("tests/serving/test_limits.py")}
    texts = [p.read_text(errors="ignore") for p in files if p not in own and p.suffix not in {".pyc", ".parquet"}]
    read = {name for text in texts for name in re.findall(r"environ(?:\.get\(|\[)\"(ASOF_[A-Z_]+)\"", text)}
    limits = {PREFIX + f.name.upper() for f in fields(Limits)}
    page = (ROOT / "docs" / "configuration.md").read_text()

    assert set(re.findall(r"^\| `(ASOF_[A-Z_]+)`", page, re.MULTILINE)) == read | limits


def test_every_variable_of_the_makefile_is_documented() -> None:
    """docs/configuration.md has the variables that a user of the Makefile may set."""
    text = (ROOT / "Makefile").read_text()
    used = set(re.findall(r"\$\((?:if \$\()?([A-Z]+)\)", text)) - {"VENV", "RUN", "READY", "LOCK"}

    assert (
        _described(ROOT / "docs" / "configuration.md", "## Makefile variables")
        - {"make demo", "make examples", "PATH", "1"}
        >= used
    )


def test_the_site_has_every_page(site: Path) -> None:
    """The site builds with warnings as errors, and has a page for each document."""
    assert {p.name for p in site.glob("*.html")} >= {Path(name).with_suffix(".html").name for name in _nav()}
