"""Reads the online features of a service for one key."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from asof.contract import Contract, Field
from asof.errors import NotFoundError, RequestError, UsageError
from asof.instants import format_moment, from_micros, parse_moment
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo
from asof.tables.conversion import json_array

WIDEST = 72
"""Characters of a value in the table of `asof get`."""

LIST = re.compile(r"(?:array|set)\((.*)\)")

STATUS_WORDS = ("present", "null", "outside max age", "not found", "not kept")


@dataclass(frozen=True, repr=False)
class KeyFeatures(Rendered, Mapping[str, Any]):
    """The online features of one key: feature -> value, None for missing.

    Attributes:
        service: The feature service.
        at: The moment, microseconds.
        features: Feature -> value, None for missing.
        statuses: Feature -> ``present``, ``null``, ``outside max age``, ``not found`` or ``not kept``.
    """

    service: str
    at: int
    features: dict[str, Any]
    statuses: dict[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def parts(self) -> Iterator[str | ResultTable]:
        """Value and status of every feature."""
        rows = [(name, _shown(value), self.statuses[name]) for name, value in self.items()]
        yield ResultTable(("feature", "value", "status"), rows)
        if "not kept" in self.statuses.values():
            yield (
                f"not kept: the online store was materialized for a later moment and does not have what was known at "
                f"{format_moment(self.at)}; read at a later moment, or build a dataset (asof dataset)"
            )

    def to_dict(self) -> dict[str, Any]:
        """The values and statuses as JSON-ready data."""
        features = {name: {"value": value, "status": self.statuses[name]} for name, value in self.items()}
        return {"service": self.service, "at": format_moment(self.at), "features": features}


def get(repo: Repo, service: str, pairs: Mapping[str, Any] | Iterable[str], *, at: int | None = None) -> KeyFeatures:
    """The online features of a service for one key.

    Args:
        repo: The feature repo.
        service: The feature service.
        pairs: Entity keys and request fields: name -> value, or texts ``name=value``.
        at: Moment to read at, microseconds; by default now. Also the value of time fields that are left out.

    Raises:
        NotFoundError: There is no such service, or a name is neither a key nor a request field.
        RequestError: A key or a field is missing, or its value does not fit.
        OnlineStoreError: Redis failed.
    """
    from asof.feature_vectors import assemble
    from asof.online import Reader

    moment = time.time_ns() // 1_000 if at is None else at
    contract = repo.contract(service)
    keys, request = parse_pairs(contract, pairs, moment)
    reader = Reader(contract, repo.settings.online)
    try:
        vectors = reader.read(keys, np.array([moment], dtype=np.int64))
    finally:
        reader.close()
    values = assemble(contract, {pair: vectors.column(*pair) for pair in vectors.columns}, request)
    statuses = dict(zip(vectors.columns, vectors.statuses[0].tolist(), strict=True))
    return KeyFeatures(
        service,
        moment,
        {f.name: _plain(values[f.name][0], f.dtype) for f in contract.features},
        {f.name: _status(f, statuses, values) for f in contract.features},
    )


def parse_pairs(
    contract: Contract, pairs: Mapping[str, Any] | Iterable[str], moment: int
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The keys and the request fields of one row in their declared types, from values by name or ``name=value`` texts.

    Raises:
        UsageError: A text has no ``=``.
        NotFoundError: A name is neither a key nor a request field.
        RequestError: A key or field is missing, or its value does not fit.
    """
    declared = {f.name: f for f in (*contract.keys, *contract.request_fields)}
    given: dict[str, Any] = {}
    for name, value in pairs.items() if isinstance(pairs, Mapping) else (_split(pair, declared) for pair in pairs):
        if name not in declared:
            raise NotFoundError(f"key or request field of service {contract.service!r}", name, declared)
        given[name] = value if value is None or isinstance(value, bytes) else parsed(declared[name], _text(value))
    for field in contract.request_fields:
        if field.dtype == "unixtimestamp":
            given.setdefault(field.name, from_micros(moment))
    if missing := [name for name in declared if name not in given]:
        raise RequestError(None, missing[0], f"is missing; service {contract.service!r} needs {', '.join(declared)}")
    return {f.name: [given[f.name]] for f in contract.keys}, {f.name: [given[f.name]] for f in contract.request_fields}


def _split(pair: str, declared: Mapping[str, Field]) -> tuple[str, str | None]:
    name, equals, text = pair.partition("=")
    if not equals:
        raise UsageError(f"got {pair!r}, expected name=value, such as {next(iter(declared), 'key')}=1")
    return name, None if text in {"", "null", "None"} else text


def _text(value: Any) -> str:
    return json.dumps(list(value), default=str) if isinstance(value, list | tuple | set) else str(value)


def parsed(field: Field, text: str, row: int | None = None) -> Any:
    """The value that ``text`` stands for in the type of ``field``; a list is a JSON array.

    Raises:
        RequestError: It does not fit; names ``row``.
    """
    listed = LIST.fullmatch(field.dtype)
    try:
        return _elements(text, listed[1]) if listed else _PARSERS.get(field.dtype, str)(text)
    except (ValueError, UsageError):
        how = f"{field.dtype} as a JSON array" if listed else field.dtype
        raise RequestError(row, field.name, f"does not fit, expected {how}") from None


def _elements(text: str, dtype: str) -> list[Any]:
    parse = _PARSERS.get(dtype, str)
    return [None if t is None else parse(t) for t in json_array(text, strings=dtype == "string")]


def _flag(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError(text)
    return text.lower() in {"true", "1"}


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int32": int, "int64": int, "float32": float, "float64": float, "bool": _flag,
    "unixtimestamp": lambda text: from_micros(parse_moment(text)), "bytes": str.encode,
}  # fmt: skip


def _plain(value: Any, dtype: str) -> Any:
    if value is None or (isinstance(value, float) and value != value):
        return None
    if dtype.startswith("int"):
        return int(value)
    if dtype == "bool":
        return bool(value)
    return value if isinstance(value, str | int | list) else float(value) if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _status(feature: Any, statuses: dict[tuple[str, str], int], values: dict[str, Any]) -> str:
    if not feature.on_demand:
        return STATUS_WORDS[statuses[feature.view, feature.feature]]
    return STATUS_WORDS[_plain(values[feature.name][0], feature.dtype) is None]
