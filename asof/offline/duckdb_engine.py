"""DuckDB as this repo is configured to use it: memory limit, threads, spill folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from asof.errors import AsofError, SettingsError, SourceError, TableError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)
_FULL = re.compile("No space left on device|max_temp_directory_size", re.IGNORECASE)
_PATTERN = re.compile(r"[*?\[]")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The ``offline_store`` section of ``feature_store.yaml``.

    Attributes:
        memory_limit: Memory that the engine may use, such as ``4GB``; None for half of what the machine has available.
        threads: Worker threads; None for one per core.
        temp_directory: Folder to spill to, relative to the repo; None for the system's.
    """

    memory_limit: str | None = None
    threads: int | None = None
    temp_directory: str | None = None

    @classmethod
    def load(cls, repo: Path) -> Self:
        """The settings of the feature repo in ``repo``; defaults where it has no ``feature_store.yaml``.

        Raises:
            SettingsError: The section has unknown keys or values.
        """
        import yaml

        file = repo / "feature_store.yaml"
        payload = yaml.safe_load(os.path.expandvars(file.read_text())) if file.is_file() else {}
        section = payload.get("offline_store") if isinstance(payload, dict) else None
        options = {k: v for k, v in section.items() if k != "type"} if isinstance(section, dict) else {}
        return (
            cls.of(options)
            if "asof" in str((section or {}).get("type", "") if isinstance(section, dict) else "")
            else cls()
        )

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Settings from a mapping.

        Raises:
            SettingsError: There are unknown keys or values.
        """
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise SettingsError(f"offline_store has the unknown keys {unknown}; known: {known}")
        settings = cls(**options)
        if settings.memory_limit is not None:
            parse_size(settings.memory_limit)
        if settings.threads is not None and (not isinstance(settings.threads, int) or settings.threads < 1):
            raise SettingsError(f"offline_store has threads {settings.threads!r}, expected a whole number from 1")
        return settings

    @property
    def memory(self) -> int:
        """The memory limit in bytes."""
        return parse_size(self.memory_limit) if self.memory_limit else _available() // 2

    @property
    def workers(self) -> int:
        """Threads for one retrieval, in addition to DuckDB's."""
        return self.threads or len(os.sched_getaffinity(0))

    def connect(self, repo: Path) -> DuckDBPyConnection:
        """A new connection to the engine that this process shares for these settings; times are UTC."""
        folder = str(repo / self.temp_directory) if self.temp_directory else None
        return _engine(self, folder, os.getpid()).cursor()


class Engine:
    """A connection that is opened on first use, because starting DuckDB costs more than a small retrieval that does not need it.

    Args:
        settings: As for :meth:`EngineSettings.connect`.
        repo: As there.
    """

    def __init__(self, settings: EngineSettings, repo: Path) -> None:
        self._settings, self._repo = settings, repo

    @cached_property
    def connection(self) -> DuckDBPyConnection:
        """The connection; it serves one thread at a time."""
        return self._settings.connect(self._repo)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if "connection" in self.__dict__:
            self.connection.close()


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Run calls into DuckDB: its exceptions become errors of asof that say what was read, DuckDB's reason, and what to do.

    Args:
        what: What is read, at the start of a sentence, such as "source 'sales'".

    Raises:
        SettingsError: The memory limit is too small.
        TableError: The disk that DuckDB spills to is full.
        SourceError: A file or a value cannot be read.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise _translated(error, what) from None


def batches(reader: pa.RecordBatchReader, what: str) -> Iterator[pa.RecordBatch]:
    """The batches of a streamed result, whose exceptions DuckDB raises as those of Arrow; errors as of :func:`asking`."""
    try:
        yield from reader
    except (OSError, pa.ArrowException) as error:
        raise _translated(error, what) from None


def _translated(error: Exception, what: str) -> AsofError:
    import duckdb

    reason = str(error).partition("\n")[0]
    if _FULL.search(reason):
        return TableError(
            f"{what} cannot be read, because the disk to spill to is full ({reason}); choose another temp_directory in offline_store"
        )
    if isinstance(error, duckdb.OutOfMemoryException) or reason.startswith("Out of Memory"):
        return SettingsError(
            f"{what} cannot be read within the memory limit ({reason}); raise memory_limit in offline_store, or lower threads"
        )
    advice = "write its files again, or restore them from a copy"
    if isinstance(
        error, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException | duckdb.ConversionException
    ):
        advice = "`asof doctor` compares what is declared with the columns and types of the files"
    return SourceError(f"{what} cannot be read ({reason}); {advice}")


def parse_size(text: str) -> int:
    """Bytes of a size such as ``4GB`` (powers of 1000) or ``512MiB`` (powers of 1024).

    Raises:
        SettingsError: ``text`` is no size.
    """
    match = _SIZE.fullmatch(str(text))
    if match is None or float(match.group(1)) <= 0:
        raise SettingsError(f"offline_store has memory_limit {text!r}, expected a size such as '4GB' or '512MiB'")
    return int(float(match.group(1)) * (1024 if match.group(3) else 1000) ** _POWERS[match.group(2).upper()])


@lru_cache(maxsize=8)
def _engine(settings: EngineSettings, folder: str | None, process: int) -> DuckDBPyConnection:
    """One engine per process and settings, because starting one costs more than a small query."""
    import duckdb

    config: dict[str, Any] = {
        "memory_limit": f"{max(settings.memory // 1000, 1)}KB",
        "autoinstall_known_extensions": "false",
    }
    if settings.threads:
        config["threads"] = settings.threads
    if folder:
        config["temp_directory"] = folder
    try:
        connection = duckdb.connect(":memory:", config=config)
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0]
        raise SettingsError(
            f"DuckDB does not start with the settings in offline_store ({reason}); correct them"
        ) from None
    else:
        return connection


def _available() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError):
        return 4_000_000_000


def quoted(name: str) -> str:
    """``name`` as an SQL identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def path_literal(path: str) -> str:
    """``path`` as an SQL string for ``read_parquet``, which would take ``*``, ``?`` and ``[`` for a pattern of other files, too."""
    return "'" + _PATTERN.sub(r"[\g<0>]", path).replace("'", "''") + "'"
