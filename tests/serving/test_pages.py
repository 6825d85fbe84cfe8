"""Pages that the service serves, and pages that commands write, load nothing from elsewhere.

:data:`PAGES` lists all of them; a module that makes a page and is not named there fails a test.
"""

from __future__ import annotations

import ast
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import pyarrow as pa
import pytest

from asof.monitoring.drift import drift
from asof.monitoring.observed import Window
from asof.monitoring.report import write_html
from tests.monitoring import served
from tests.serving.processes import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
BROWSER = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=10000",
]  # fmt: skip
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("asof", "serving", "training", "monitoring")

LOADS = {
    "script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"), "video": ("src", "poster"),
    "audio": ("src",), "track": ("src",), "embed": ("src",), "object": ("data",), "input": ("src",), "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"), "base": ("href",), "form": ("action",), "body": ("background",),
}  # fmt: skip
"""Elements that make a browser load something, and the attributes that say what. Links that a person clicks (``a``) load nothing by themselves."""
RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "modulepreload",
    "preconnect",
    "dns-prefetch",
    "manifest",
    "apple-touch-icon",
}
"""Values of ``rel`` with which a ``link`` makes a browser ask for its ``href``."""
FOREIGN = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
IN_SCRIPTS = re.compile(
    r"""(?:fetch|import|importScripts|sendBeacon|open|EventSource|WebSocket)\s*\(\s*["'`]\s*((?:https?:|wss?:)?//[^"'`\s]+)"""
    r"""|\.(?:src|href|action)\s*=\s*["'`]\s*((?:https?:)?//[^"'`\s]+)"""
)


@dataclass(frozen=True)
class Pages:
    """Pages of one kind.

    Attributes:
        module: The module that makes them; empty where no module does.
        start: Starts what serves them; gives its address and the paths of the pages, of which the first leads to all that are HTML.
    """

    module: str
    start: Callable[[pytest.FixtureRequest], Any]


@contextmanager
def _the_service(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    made: Service = request.getfixturevalue("service")
    yield made.url, ["/", "/page.js", "/docs.json", "/metrics", "/readyz", "/livez", "/no-such-page"]


@contextmanager
def _the_drift_report(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    folder: Path = request.getfixturevalue("tmp_path")
    columns = served.rows(2_000, seed=1)
    columns["score"] = columns["score"] ** 0.5
    evil = '"><img src="//elsewhere.example/x.png"><style>@import "//elsewhere.example/x.css"</style>'
    columns["feature.segment"] = pa.array(np.where(np.arange(2_000) % 4 == 0, evil, columns["feature.segment"]))
    write_html(drift(served.log(folder / "log", columns), Window()), folder / "reports" / "drift.html")
    with _folder(folder / "reports") as address:
        yield address, ["/drift.html"]


@contextmanager
def _the_documentation(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    site = request.getfixturevalue("tmp_path") / "site"
    shutil.copytree(request.getfixturevalue("site"), site)
    pages = sorted(str(p.relative_to(site)) for p in site.rglob("*.html"))
    frames = "".join(f'<iframe src="{page}"></iframe>' for page in pages)
    (site / "all-pages.html").write_text(f"<!doctype html><title>All pages</title>{frames}")
    with _folder(site) as address:
        yield address, [f"/{page}" for page in ("all-pages.html", *pages)]


PAGES = {
    "service": Pages("serving/asgi.py", _the_service),
    "drift report": Pages("monitoring/report.py", _the_drift_report),
    "documentation": Pages("", _the_documentation),
}
"""All pages. A new one is added here; `asof demo` writes reports of drift."""


@contextmanager
def _folder(folder: Path) -> Iterator[str]:
    """The address at which the files of ``folder`` are served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the standard library
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def loaded(page: str) -> list[str]:
    """The addresses that a browser loads by itself with an HTML page, from its elements, styles and inline scripts."""
    found: list[str] = []

    class Loads(HTMLParser):
        inside = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            named = {name: value or "" for name, value in attrs}
            self.inside = tag
            found.extend(named[a] for a in LOADS.get(tag, ()) if a in named)
            if tag == "link" and RELATIONS & set(named.get("rel", "").split()):
                found.append(named.get("href", ""))
            if tag == "meta" and named.get("http-equiv", "").lower() == "refresh":
                found.append(named.get("content", "").partition("=")[2].strip("'\" "))
            found.extend(IN_STYLES.findall(named.get("style", "")))
            for name, value in named.items():
                if name.startswith("on"):
                    found.extend(in_script(value))

        handle_startendtag = handle_starttag

        def handle_endtag(self, tag: str) -> None:
            self.inside = ""

        def handle_data(self, data: str) -> None:
            found.extend(IN_STYLES.findall(data) if self.inside == "style" else ())
            found.extend(in_script(data) if self.inside == "script" else ())

    Loads().feed(page)
    return [address for address in found if address]


def in_script(text: str) -> list[str]:
    """The foreign addresses that a script names where it loads something."""
    return [one or other for one, other in IN_SCRIPTS.findall(text)]


def foreign(address: str, paths: list[str], ask: Callable[[str], tuple[str, str]]) -> list[tuple[str, str]]:
    """What the pages at ``paths``, and the styles and scripts that they load, load from elsewhere, as (path, address)."""
    found, seen, waiting = [], set(), list(paths)
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        kind, text = ask(address + path)
        if "html" in kind:
            named = loaded(text)
            found += [(path, a) for a in named if FOREIGN.match(a)]
            within = [
                urlsplit(urljoin(path, a)).path for a in named if not FOREIGN.match(a) and not a.startswith("data:")
            ]
            waiting += [a for a in within if a.endswith((".css", ".js", ".svg", ".html"))]
        elif "css" in kind or "svg" in kind:
            found += [(path, a) for a in IN_STYLES.findall(text)]
        elif "javascript" in kind:
            found += [(path, a) for a in in_script(text)]
    return found


def ask(url: str) -> tuple[str, str]:
    """The content type and the text of what is at ``url``, errors included."""
    try:
        answer = urllib.request.urlopen(url, timeout=30)  # noqa: S310 - an address of this test
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.headers.get("content-type", ""), answer.read().decode(errors="replace")


def visit(url: str, folder: Path) -> tuple[str, set[str]]:
    """The document that Chromium ends with, and the addresses that the page made it request."""
    record = folder / "net.json"
    command = [
        str(CHROMIUM),
        *BROWSER,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={record}",
        "--dump-dom",
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    logged = json.loads(record.read_text())
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    requests = [e["params"] for e in logged["events"] if "url" in e.get("params", {}) and "method" in e["params"]]
    return done.stdout, {r["url"] for r in requests if r.get("initiator") == origin or r["url"] == url}


@pytest.mark.parametrize("name", PAGES)
def test_no_page_names_a_foreign_address_to_load(name: str, request: pytest.FixtureRequest) -> None:
    """No script, style, image, font or frame of a page, or of a style or script that it loads, is elsewhere."""
    with PAGES[name].start(request) as (address, paths):
        assert foreign(address, paths, ask) == []


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_a_browser_asks_nobody_else(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Chromium opens a page and requests nothing but what is at the page's own address."""
    with PAGES[name].start(request) as (address, paths):
        shown = {address + p for p in paths if "html" in ask(address + p)[0]}
        _, requested = visit(address + paths[0], tmp_path)
        assert shown <= requested
        assert {url for url in requested if not url.startswith((f"{address}/", "data:", "blob:"))} == set()


def test_every_module_that_makes_a_page_is_listed() -> None:
    """A module that writes an HTML document is one of those in PAGES."""
    makers = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if "<!doctype html" in file.read_text().lower()
    }
    assert makers == {pages.module for pages in PAGES.values()} - {""}


def test_no_text_of_the_code_loads_from_elsewhere() -> None:
    """No string of the code, whole page or part of one, has an element, style or script that loads from a foreign address."""
    found = [
        (str(file.relative_to(ROOT)), node.lineno)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
        for text in [node.value if isinstance(node.value, str) else node.value.decode(errors="replace")]
        if IN_STYLES.search(text) or in_script(text) or any(FOREIGN.match(a) for a in loaded(text))
    ]
    assert found == []


LOADING = (
    '<script src="https://x.example/a.js"></script>',
    '<link rel="preconnect" href="//fonts.x.example">',
    '<img alt="" srcset="//x.example/a.png 2x">',
    '<p style="background: url(//x.example/a.png)"></p>',
    '<style>@import "https://x.example/a.css";</style>',
    "<style>@font-face { src: url('https://x.example/a.woff2') }</style>",
    '<script>fetch("https://x.example/a")</script>',
    "<script>new Image().src = '//x.example/a.gif'</script>",
    '<svg><image href="https://x.example/a.svg"/></svg>',
    '<meta http-equiv="refresh" content="0; url=https://x.example/">',
)


@pytest.mark.parametrize("text", LOADING)
def test_what_loads_from_elsewhere_is_found(text: str) -> None:
    """Each way of loading is seen; a link that a person clicks is none."""
    page = f"<html><body>{text}</body></html>"
    assert len(foreign("", ["/"], lambda _: ("text/html", page))) == 1
    assert foreign("", ["/"], lambda _: ("text/html", '<a href="https://x.example/">x</a>')) == []


@needs_browser
def test_the_browser_notices_a_foreign_request(tmp_path: Path) -> None:
    """A request that a script makes up while the page is open is seen, although its host is not reached."""
    (tmp_path / "page").mkdir()
    script = "const host = ['https:/', 'x.example', 'a.gif'].join('/'); new Image().src = host;"
    (tmp_path / "page" / "index.html").write_text(f"<!doctype html><script>{script}</script>")
    with _folder(tmp_path / "page") as address:
        _, requested = visit(f"{address}/index.html", tmp_path)
    assert "https://x.example/a.gif" in requested


def test_the_page_and_its_script_have_no_foreign_address(service: Service) -> None:
    """Every address in the page is relative, its policy allows the service alone, and each file that it names is there."""
    status, page, headers = service.ask("/")
    text = page if isinstance(page, str) else page.decode()
    _, script, _ = service.ask("/page.js")

    assert status == 200
    assert "http" not in text
    assert "//" not in text
    assert "http" not in str(script)
    assert "validatorUrl: null" in str(script)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not re.search(r"https?:|\*", headers["content-security-policy"])
    named = re.findall(r'(?:src|href)="\.(/[^"]+)"', text)
    assert len(named) == 4
    assert [service.ask(path)[0] for path in named] == [200] * 4


@needs_browser
def test_a_browser_sees_the_operation(service: Service, tmp_path: Path) -> None:
    """Chromium shows POST /predict from the service's own OpenAPI document."""
    document, requested = visit(f"{service.url}/", tmp_path)

    assert "opblock-summary" in document
    assert f"{service.url}/docs.json" in requested
