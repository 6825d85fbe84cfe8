"""The drift report as an HTML file."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from asof.monitoring import charts
from asof.monitoring.drift import DriftReport, drift
from asof.monitoring.observed import Window
from asof.monitoring.report import to_html, write_html
from tests.monitoring import served

EVIL = "\"><script>alert(1)</script>&'`"
VOID = {"meta", "rect", "line", "br", "wbr"}


class Page(html.parser.HTMLParser):
    """Tags, attributes and text, with a check that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.source = text
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that opens."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that opens and closes at once."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Check that the innermost open tag closes."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every tag of this name."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DriftReport:
    """A week with a drifted, a missing and a malicious column."""
    columns = served.rows(4_000, seed=1)
    columns["score"] = columns["score"] ** 0.5
    hurt = np.arange(4_000) % 4 == 0
    columns["feature.segment"] = pa.array(np.where(hurt, EVIL, columns["feature.segment"]))
    folder = tmp_path_factory.mktemp("report")
    return drift(served.log(folder, columns), Window())


@pytest.fixture(scope="module")
def page(report: DriftReport) -> Page:
    return Page(to_html(report))


def test_the_page_is_well_formed_and_complete(report: DriftReport, page: Page) -> None:
    """Every tag is closed in order, and each column has its chart, its verdict and its numbers."""
    text = "".join(page.text)
    assert len([a for a in page.named("svg") if a.get("role") == "img"]) == len(report.columns)
    assert all(column.name in text for column in report.columns)
    assert "Drift found" in text
    assert "What to do next" in text


def test_the_page_needs_nothing_from_anywhere(page: Page) -> None:
    """No script, no link, no image, font or frame: the file is all there is."""
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "video"} & {
        tag for tag, _ in page.tags
    }
    assert all((a["href"] or "").startswith("#") for a in page.named("a"))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|src=", page.source)
    assert "default-src 'none'" in page.source
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_values_from_data_are_escaped(report: DriftReport, page: Page) -> None:
    """Markup in a category, a name or an advice is text, never markup."""
    assert "<script" not in to_html(report)
    assert "<i>c</i>" in " ".join(page.text)
    evil = charts.chart(EVIL, _frozen(), _frozen(), "0")
    assert "<script" not in evil
    assert Page(evil).named("svg")


def _frozen() -> dict:
    return {"kind": "categorical", "categories": [EVIL, "b"], "counts": [3, 4], "other": 0, "missing": 1}


def test_the_page_can_be_read_without_eyes_and_without_a_mouse(page: Page) -> None:
    """Charts have titles and descriptions, tables have headers, links lead somewhere, one first heading, a language."""
    identifiers = [a["id"] for _, a in page.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    for attributes in page.named("svg"):
        assert attributes.get("aria-hidden") == "true" or set(str(attributes["aria-labelledby"]).split()) <= set(
            identifiers
        )
    assert all(str(a["href"])[1:] in identifiers for a in page.named("a"))
    assert all(a.get("scope") in {"row", "col"} for a in page.named("th"))
    assert len(page.named("h1")) == 1
    assert page.named("html")[0]["lang"] == "en"


def _contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""
    light = sorted((_luminance(one), _luminance(other)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("mode", [0, 1])
def test_text_has_contrast_in_light_and_in_dark(report: DriftReport, mode: int) -> None:
    """Words reach the WCAG ratio of 4.5, bars that of 3 against their ground, in both colour schemes."""
    block = re.findall(r":root \{(.*?)\}", to_html(report), re.DOTALL)[mode]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
    words = [("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("link", "card")]
    words += [(verdict, f"{verdict}-soft") for verdict in ("drift", "slight", "stable", "few")]
    assert {
        pair: _contrast(*(colours[c] for c in pair)) for pair in words if _contrast(*(colours[c] for c in pair)) < 4.5
    } == {}
    assert _contrast(colours["serving"], colours["card"]) >= 3
    assert _contrast(colours["training"], colours["card"]) >= 2.5


@pytest.mark.parametrize(
    "columns",
    [served.rows(40, seed=3), {name: values[:0] for name, values in served.rows(40, seed=3).items()}],
    ids=["few", "none"],
)
def test_small_and_empty_windows_have_pages_too(tmp_path: Path, columns: dict) -> None:
    """With too few rows the page says so at the top, and is well formed."""
    log = served.log(tmp_path, columns if len(columns["at"]) else served.rows(5, seed=3), size=2_000)
    window = Window() if len(columns["at"]) else Window(0, 1)
    page = Page(to_html(drift(log, window)))
    assert "Too few rows to say" in " ".join(page.text)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_file(report: DriftReport, tmp_path: Path, scheme: str) -> None:
    """A real headless Chromium draws the page in both colour schemes; without one, a strict XML parser reads every chart."""
    target = tmp_path / "report.html"
    write_html(report, target)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        _parse_charts(target.read_text(encoding="utf-8"), len(report.columns))
        return
    picture, dark = tmp_path / "page.png", ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    base = [browser, *QUIET, *dark, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,1400"]
    subprocess.run([*base, f"--screenshot={picture}", target.as_uri()], check=True, timeout=120, capture_output=True)
    shown = subprocess.run(
        [*base, "--dump-dom", target.as_uri()], check=True, timeout=120, capture_output=True, text=True
    ).stdout
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 20_000
    assert shown.count('role="img"') == len(report.columns)
    _parse_charts(shown, len(report.columns))


def _parse_charts(text: str, expected: int) -> None:
    from xml.dom import minidom

    found = re.findall(r"<svg[^>]*role=\"img\".*?</svg>", text, re.DOTALL)
    bars = [minidom.parseString(svg).getElementsByTagName("rect") for svg in found]  # noqa: S318 - our own text
    assert len(found) == expected
    assert all(float(bar.getAttribute("height")) >= 0 for chart in bars for bar in chart)
