"""The service's own page shows the OpenAPI document and loads nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.serving.processes import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
BROWSER = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=10000",
]  # fmt: skip


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


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_sees_the_operation_and_asks_nobody_else(service: Service, tmp_path: Path) -> None:
    """Chromium shows POST /predict, and no request leaves the service's address."""
    document, requested = visit(f"{service.url}/", tmp_path)

    assert "opblock-summary" in document
    assert f"{service.url}/docs.json" in requested
    assert {url for url in requested if not url.startswith((f"{service.url}/", "data:"))} == set()
