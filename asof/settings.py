"""The settings of a feature repo, read from ``feature_store.yaml`` without Feast.

Feast reads the same file. This module reads the values needed by processes that must not import Feast, such as a serving
worker, with Feast's rules: environment variables are expanded, and relative paths start at the repo. Nothing is read at
import.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from asof.errors import SettingsError

EMBEDDED = "embedded"
"""The ``connection_string`` for a redis-server that belongs to the repo."""

_ONLINE_KEYS = {
    "type", "connection_string", "redis_type", "sentinel_master", "key_ttl_seconds", "connect_timeout", "read_timeout", "retries",
}  # fmt: skip
_REDIS_TYPES = ("redis", "redis_sentinel", "redis_cluster")
_SECRET = re.compile(r"(password=)[^,]+|(://[^:@/]*:)[^@]+(?=@)", re.IGNORECASE)


def mask(connection_string: str) -> str:
    """``connection_string`` with its passwords replaced by ``***``."""
    return _SECRET.sub(lambda m: f"{m.group(1) or m.group(2)}***", connection_string)


@dataclass(frozen=True, slots=True)
class OnlineSettings:
    """How to reach Redis.

    Attributes:
        connection_string: ``embedded``, or an address as Feast writes it (``host:port,key=value,...``).
        folder: Folder of an embedded Redis's socket and data.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer.
        retries: How often a command is repeated after its connection was lost.
        redis_type: ``redis``, ``redis_sentinel`` or ``redis_cluster``, as Feast names them.
        sentinel_master: Name of the master that Sentinel watches.
        key_ttl_seconds: Seconds after its last write until Redis deletes a key; 0 for never.
    """

    connection_string: str = field(repr=False)
    folder: Path
    connect_timeout: float = 2.0
    read_timeout: float = 5.0
    retries: int = 2
    redis_type: str = "redis"
    sentinel_master: str = "mymaster"
    key_ttl_seconds: int = 0

    def __post_init__(self) -> None:
        if self.redis_type not in _REDIS_TYPES:
            raise SettingsError(
                f"online_store.redis_type is {self.redis_type!r}, expected one of {', '.join(_REDIS_TYPES)}"
            )

    @property
    def embedded(self) -> bool:
        """Whether the repo uses an embedded redis-server."""
        return self.connection_string == EMBEDDED

    @property
    def address(self) -> str:
        """The connection string without its secrets."""
        return mask(self.connection_string)

    @property
    def server(self) -> str:
        """The server in words, at the start of a sentence."""
        return "The embedded Redis" if self.embedded else f"Redis at {self.address}"


@dataclass(frozen=True, slots=True)
class RepoSettings:
    """A feature repo and its folders. Everything that asof writes is below :attr:`data`."""

    path: Path
    project: str
    online: OnlineSettings

    @property
    def data(self) -> Path:
        """The folder ``data`` in the repo, which holds everything that asof writes."""
        return self.path / "data"

    @property
    def models(self) -> Path:
        """Model bundles: ``<model>/<version>/``."""
        return self.data / "models"

    @property
    def predictions(self) -> Path:
        """Prediction logs: ``<model>/hour=<UTC hour>/*.parquet``."""
        return self.data / "predictions"

    @property
    def bentoml(self) -> Path:
        """The BentoML home in use, which holds built services: ``$BENTOML_HOME``, or the repo's own."""
        return Path(os.environ.get("BENTOML_HOME") or self.data / "bentoml").resolve()

    @property
    def profiles(self) -> Path:
        """Profiles (whylogs) of prediction logs: ``<model>/*.bin``."""
        return self.data / "profiles"

    @property
    def reports(self) -> Path:
        """HTML and JSON reports."""
        return self.data / "reports"

    def hide_data_from_feast(self) -> None:
        """Name :attr:`data` in ``.feastignore``, so that ``feast apply`` does not import the copies of Python files in models and services.

        A file that names it already, and a repo that cannot be written to, stay as they are.
        """
        file = self.path / ".feastignore"
        lines = file.read_text().splitlines() if file.is_file() else []
        patterns = [line.partition("#")[0].strip() for line in lines]
        if not any(p.rstrip("/") == self.data.name or self.data in self.path.glob(p) for p in patterns if p):
            with suppress(OSError):
                file.write_text("\n".join([*lines, f"{self.data.name}  # written by asof"]) + "\n")

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """The settings of the repo at ``path``; without one, of ``$ASOF_REPO``, ``.`` or ``./feature_repo``.

        Raises:
            SettingsError: There is no ``feature_store.yaml``, or it is invalid.
        """
        root = find_repo(path)
        text = (root / "feature_store.yaml").read_text()
        payload = _parse(os.path.expandvars(text), root)
        project = payload.get("project")
        if not isinstance(project, str):
            raise SettingsError(f"{root / 'feature_store.yaml'}: got project {project!r}, expected a name")
        _check_batch_engine(payload.get("batch_engine"))
        return cls(path=root, project=project, online=_online(payload.get("online_store"), root))


def find_repo(path: str | Path | None = None) -> Path:
    """The absolute folder that holds ``feature_store.yaml``.

    Raises:
        SettingsError: There is none.
    """
    given = path or os.environ.get("ASOF_REPO")
    candidates = [Path(given)] if given else [Path(), Path("feature_repo")]
    for candidate in candidates:
        if (candidate / "feature_store.yaml").is_file():
            return candidate.resolve()
    looked = " and ".join(str(c.resolve()) for c in candidates)
    raise SettingsError(f"no feature_store.yaml in {looked}; name the feature repo with --repo PATH or ASOF_REPO")


def _parse(text: str, root: Path) -> dict[str, Any]:
    import yaml

    try:
        payload = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{root / 'feature_store.yaml'} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(payload, dict):
        raise SettingsError(
            f"{root / 'feature_store.yaml'}: expected a mapping with project, registry, provider and stores"
        )
    return payload


def _check_batch_engine(section: Any) -> None:
    options = section if isinstance(section, dict) else {}
    if "asof" in str(options.get("type", "")) and (unknown := sorted(set(options) - {"type"}, key=str)):
        raise SettingsError(
            f"batch_engine has the unknown keys {unknown}; it takes only type: memory and threads are those of offline_store"
        )


def _online(section: Any, root: Path) -> OnlineSettings:
    override = os.environ.get("ASOF_REDIS")
    options = dict(section) if isinstance(section, dict) else {}
    if "asof" in str(options.get("type", "")) and (unknown := sorted(set(options) - _ONLINE_KEYS)):
        raise SettingsError(f"online_store has the unknown keys {unknown}; known: {sorted(_ONLINE_KEYS)}")
    known = {k: options[k] for k in sorted(_ONLINE_KEYS - {"type", "connection_string"}) if options.get(k) is not None}
    return OnlineSettings(
        connection_string=override or str(options.get("connection_string", EMBEDDED)),
        folder=root / "data" / "redis",
        **known,
    )
