"""The checks of ``asof doctor``, each with advice on what to do.

A check never raises. The checks start a Redis in a temporary folder, and the repo's embedded Redis if it does not run; they
change nothing else. Checks of a repo run only if there is one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from asof.bundle import Bundle, versions
from asof.contract.cache import registry_file
from asof.contract.diff import contract_changes
from asof.errors import AsofError, NotFoundError
from asof.instants import parse_moment
from asof.online.redis.server import EmbeddedRedis, find_server
from asof.quantities import counted
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo
from asof.settings import RepoSettings

LEAST_DISK = 1 << 30
"""Bytes that should be free where data is written."""

GREATEST_CLOCK_ERROR = 1.0
"""Seconds by which this machine's clock and that of Redis may differ."""

PLUG_INS = {
    "provider": "asof.provider.AsofProvider",
    "offline_store": "asof.offline.DuckDBOfflineStore",
    "online_store": "asof.online.RedisOnlineStore",
    "batch_engine": "asof.engine.DuckDBComputeEngine",
}
"""Key of ``feature_store.yaml`` -> the plug-in it must name for values to be point-in-time correct."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check: whether it passed, what was found, and what to do if it did not pass."""

    check: str
    fine: bool
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class Diagnosis(Rendered):
    """The results of all checks."""

    findings: tuple[CheckResult, ...]

    @property
    def wrong(self) -> list[CheckResult]:
        """The checks that did not pass."""
        return [f for f in self.findings if not f.fine]

    @property
    def exit_code(self) -> int:
        """1 if a check did not pass."""
        return 1 if self.wrong else 0

    def parts(self) -> Iterator[str | ResultTable]:
        """A line for each check, and the verdict."""
        rows = [("ok" if f.fine else "WRONG", f.check, f.found, f.advice) for f in self.findings]
        yield ResultTable(("", "check", "found", "what to do"), rows)
        yield ""
        found, every = len(self.wrong), len(self.findings)
        yield f"{found} of {every} checks found a problem" if found else f"all {every} checks are fine"

    def to_dict(self) -> dict[str, Any]:
        """The results as JSON-ready data."""
        return {"fine": not self.wrong, "findings": [f.to_dict() for f in self.findings]}


def doctor(repo: str | Path | None = None) -> Diagnosis:
    """Check the installation and the feature repo; see :func:`examine`."""
    return Diagnosis(tuple(examine(repo)))


def examine(repo: str | Path | None = None) -> Iterator[CheckResult]:
    """The results of all checks, in the order in which problems should be fixed.

    Args:
        repo: Feature repo; None uses the one that every command would use, or checks only the installation if there is none.
    """
    for name, check in INSTALLATION.items():
        yield from _guarded(name, check)
    try:
        settings = RepoSettings.load(repo)
    except AsofError as error:
        yield CheckResult(
            "feature repo",
            fine=repo is None and not os.environ.get("ASOF_REPO"),
            found=str(error),
            advice="--repo PATH",
        )
        return
    for name, repo_check in REPO.items():
        yield from _guarded(name, partial(repo_check, Repo(settings)))


def _guarded(name: str, check: Callable[[], Iterator[CheckResult]]) -> Iterator[CheckResult]:
    try:
        yield from check()
    except AsofError as error:
        yield CheckResult(name, fine=False, found=str(error), advice="see the message")
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything
        said = " ".join(str(error).split())
        yield CheckResult(
            name,
            fine=False,
            found=f"{type(error).__name__}: {said}",
            advice="set the environment up again: pip install -r requirements.lock",
        )


def _python() -> Iterator[CheckResult]:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield CheckResult(
        "Python", fine, version, "" if fine else "install Python 3.11 or 3.12 and set the environment up again"
    )


def _packages() -> Iterator[CheckResult]:
    wanted = _locked() or _declared()
    wrong = [
        f"{name} {_installed(name) or 'is missing'} ({asked})"
        for name, asked, fits in wanted
        if not fits(_installed(name))
    ]
    found = (
        f"{len(wanted)} packages fit"
        if not wrong
        else ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if wrong[5:] else "")
    )
    yield CheckResult(
        "packages", not wrong, found, "pip install --require-hashes -r requirements.lock" if wrong else ""
    )


def lock_file() -> Path | None:
    """``requirements.lock`` of the checkout that asof runs from; None for an installed wheel."""
    candidate = Path(__file__).resolve().parents[1] / "requirements.lock"
    return candidate if candidate.is_file() else None


Wanted = tuple[str, str, Callable[[str | None], bool]]


def _locked() -> list[Wanted]:
    from packaging.requirements import Requirement

    path = lock_file()
    lines = path.read_text().splitlines() if path else []
    parsed = [Requirement(line.rstrip("\\ ")) for line in lines if line and line[0] not in "# "]
    return [_wanted(r) for r in parsed if r.marker is None or r.marker.evaluate()]


def _declared() -> list[Wanted]:
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in metadata.requires("asof") or ()]
    return [_wanted(r) for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def _wanted(requirement: Any) -> Wanted:
    specifier = requirement.specifier
    return (
        requirement.name,
        f"expected {specifier}",
        lambda v: v is not None and specifier.contains(v, prereleases=True),
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _native() -> Iterator[CheckResult]:
    """LightGBM needs the system's OpenMP library, which slim container images lack."""
    spec = importlib.util.find_spec("lightgbm")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    library = next((p for f in folders for p in Path(f).rglob("lib_lightgbm.*")), None)
    if library is None:
        yield CheckResult("LightGBM", fine=False, found="its library is missing", advice="pip install lightgbm")
        return
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        yield CheckResult(
            "LightGBM", fine=False, found=str(error), advice="install OpenMP (Debian: apt-get install libgomp1)"
        )
    else:
        yield CheckResult("LightGBM", fine=True, found="its library loads")


def _redis_server() -> Iterator[CheckResult]:
    binary = find_server()
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    yield CheckResult("redis-server", fine=True, found=f"{said.partition(' sha=')[0].strip()} at {binary}")
    with tempfile.TemporaryDirectory(prefix="asof-doctor-") as folder:
        server = EmbeddedRedis(Path(folder))
        try:
            server.start()
            yield CheckResult("redis-server starts", fine=True, found="it started, answered and stopped")
        finally:
            server.stop()


def _feature_store(repo: Repo) -> Iterator[CheckResult]:
    import yaml

    path = repo.path / "feature_store.yaml"
    payload = yaml.safe_load(os.path.expandvars(path.read_text()))
    other = {k: _named(payload.get(k)) for k, v in PLUG_INS.items() if _named(payload.get(k)) != v}
    text = ", ".join(f"{k} is {v!r}" for k, v in other.items()) or f"{path} names the four plug-ins of asof"
    advice = "; ".join(f"set {k} to {PLUG_INS[k]}" for k in other)
    yield CheckResult("feature_store.yaml", not other, text, advice)


def _named(section: Any) -> Any:
    return section.get("type") if isinstance(section, dict) else section


def _writable(repo: Repo) -> Iterator[CheckResult]:
    folder = repo.settings.data
    parent = folder if folder.is_dir() else repo.path
    try:
        with tempfile.NamedTemporaryFile(dir=parent):
            pass
    except OSError as error:
        yield CheckResult("write access", fine=False, found=str(error), advice=f"make {parent} writable for this user")
        return
    free = shutil.disk_usage(parent).free
    enough = free >= LEAST_DISK
    yield CheckResult("write access", fine=True, found=f"{parent} can be written")
    yield CheckResult(
        "disk space",
        enough,
        f"{free / (1 << 30):.1f} GiB free",
        "" if enough else "free some space: 1 GiB is the least",
    )


def _paths(repo: Repo) -> Iterator[CheckResult]:
    from asof.tables import delta
    from asof.tables.declarations import declarations

    registry = registry_file(repo.settings)
    held = list(declarations(repo).tables.values()) if registry is None or registry.is_file() else []
    tables = [delta.folder(repo, table) for table in held if table.format == "delta"]
    if tables or not held:
        delta.check_folder(repo.settings.data)
    yield CheckResult(
        "paths",
        fine=True,
        found=f"{repo.path} can be used, and so can the folders of {counted(len(tables), 'Delta table')}",
    )


def _online(repo: Repo) -> Iterator[CheckResult]:
    from asof.online import connect

    settings = repo.settings.online
    if settings.embedded:
        socket = EmbeddedRedis(settings.folder).socket
        yield CheckResult("socket path", fine=True, found=f"{socket} ({len(os.fsencode(socket))} of at most 107 bytes)")
    client = connect(settings)
    before = time.time()
    seconds, micros = client.time()
    apart = seconds + micros / 1e6 - (before + time.time()) / 2
    yield CheckResult("Redis", fine=True, found=f"{settings.server} answers in {(time.time() - before) * 1e3:.1f} ms")
    fine = abs(apart) <= GREATEST_CLOCK_ERROR
    advice = "" if fine else "synchronise both clocks (NTP): freshness is judged by them"
    yield CheckResult("clock and Redis", fine, f"{apart:+.3f} s apart", advice)


def _registry(repo: Repo) -> Iterator[CheckResult]:
    services = repo.services()
    found = (
        f"{counted(len(repo.views()), 'view')}, services: {', '.join(services)}" if services else "nothing is applied"
    )
    yield CheckResult("registry", bool(services), found, "" if services else "asof apply")


def _definitions(repo: Repo) -> Iterator[CheckResult]:
    from asof.tables.declarations import declarations
    from asof.tables.definition_check import definition_faults

    registry = registry_file(repo.settings)
    if registry is not None and not registry.is_file():
        return
    held = declarations(repo)
    faults = definition_faults(held.tables, held.views, repo.path)
    for fault in faults:
        yield CheckResult(fault.definition, fine=False, found=fault.problem, advice="correct it, then asof apply")
    if not faults:
        found = f"{counted(len(held.views), 'view')} and {counted(len(held.tables), 'table')}: what they declare fits the files that exist"
        yield CheckResult("definitions", fine=True, found=found)


def _contracts(repo: Repo) -> Iterator[CheckResult]:
    from asof.online import Reader

    for service in repo.services():
        contract = repo.contract(service)
        differing = Reader(contract, repo.settings.online).check()
        found = "; ".join(differing[:3]) or f"{contract.fingerprint} fits what is in the online store"
        yield CheckResult(
            f"contract {service}", not differing, found, "asof apply, then asof materialize" if differing else ""
        )


def _bundles(repo: Repo) -> Iterator[CheckResult]:
    models = repo.settings.models
    for model in sorted(p.name for p in models.iterdir()) if models.is_dir() else ():
        for version in versions(models, model):
            yield from _guarded(f"model {model} {version}", partial(_bundle, repo, models / model / version))


def _bundle(repo: Repo, folder: Path) -> Iterator[CheckResult]:
    bundle = Bundle.open(folder)
    name, contract = f"model {bundle.model} {bundle.version}", bundle.contract
    try:
        differing = list(contract_changes(contract, repo.contract(contract.service)))
    except NotFoundError as error:
        differing = [str(error)]
    found = f"needs {differing[0]}" if differing else f"unchanged, fits service {contract.service}"
    yield CheckResult(name, not differing, found, f"asof train {bundle.model}" if differing else "")
    created = parse_moment(str(bundle.metadata["created"])) / 1e6
    if created > time.time() + 60:
        yield CheckResult(
            "clock", fine=False, found=f"{name} was made in the future", advice="set this machine's clock (NTP)"
        )


INSTALLATION: dict[str, Callable[[], Iterator[CheckResult]]] = {
    "Python": _python,
    "packages": _packages,
    "LightGBM": _native,
    "redis-server": _redis_server,
}

REPO: dict[str, Callable[[Repo], Iterator[CheckResult]]] = {
    "feature_store.yaml": _feature_store,
    "write access": _writable,
    "paths": _paths,
    "Redis": _online,
    "registry": _registry,
    "definitions": _definitions,
    "contracts": _contracts,
    "models": _bundles,
}
