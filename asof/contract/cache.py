"""Cache of compiled contracts, so that a command that needs only a contract starts without Feast.

``data/contracts.json`` holds the contracts and a SHA-256 over their inputs: the registry file, the Python files of the repo
(on-demand functions), the project and the version of asof. When the digest changes, contracts are compiled again. Contracts of a
registry that is not a local file are not cached.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from asof.atomic_file import replacing
from asof.contract import Contract
from asof.errors import BundleError
from asof.settings import RepoSettings
from asof.version import __version__

FILE = "contracts.json"


def recall(settings: RepoSettings, service: str) -> Contract | None:
    """The cached contract of ``service``; None if there is none or an input of it has changed."""
    key = _key(settings)
    contracts = _read(settings.data / FILE, key) if key else {}
    try:
        return Contract.from_json(contracts[service]) if service in contracts else None
    except BundleError:
        return None


def remember(settings: RepoSettings, contract: Contract) -> None:
    """Cache ``contract``; a repo that cannot be written to is no error."""
    key = _key(settings)
    if key is not None:
        kept = {**_read(settings.data / FILE, key), contract.service: contract.to_json()}
        write_whole(settings.data / FILE, {"key": key, "contracts": kept})


def registry_file(settings: RepoSettings) -> Path | None:
    """The file of a local registry; None where the registry is something else (SQL, a bucket, a server)."""
    payload = yaml.safe_load(os.path.expandvars((settings.path / "feature_store.yaml").read_text()))
    declared = payload.get("registry", "data/registry.db")
    options = declared if isinstance(declared, dict) else {"path": declared}
    path = str(options.get("path", ""))
    if options.get("registry_type", "file") != "file" or "registry_store_type" in options or "://" in path or not path:
        return None
    return settings.path / path


def digest(settings: RepoSettings, registry: Path) -> str:
    """SHA-256 over the registry file, the project and the version of asof."""
    return hashlib.sha256(f"{__version__}\n{settings.project}\n".encode() + registry.read_bytes()).hexdigest()


def write_whole(path: Path, payload: Any) -> None:
    """Write ``payload`` as JSON, atomically; a folder that cannot be written to is no error."""
    try:
        with replacing(path) as work:
            work.write_text(json.dumps(payload))
    except OSError:
        return  # a read-only repo works too, it only starts more slowly


def _key(settings: RepoSettings) -> str | None:
    registry = registry_file(settings)
    if registry is None or not registry.is_file():
        return None
    found = hashlib.sha256(digest(settings, registry).encode())
    for file in _sources(settings.path):
        found.update(f"\n{file.relative_to(settings.path)}\n".encode() + file.read_bytes())
    return found.hexdigest()


def _sources(repo: Path) -> Iterator[Path]:
    """The repo's Python files, without hidden and generated ones."""
    for folder, inner, files in os.walk(repo):
        inner[:] = sorted(
            i for i in inner if not i.startswith((".", "__")) and not (i == "data" and Path(folder) == repo)
        )
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _read(path: Path, key: str) -> dict[str, str]:
    try:
        payload = json.loads(path.read_text())
        return dict(payload["contracts"]) if payload["key"] == key else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
