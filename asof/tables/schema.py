"""Declarations of tables: columns, types, bounds and derivations, read from the tags of a Feast source.

The grammar::

    asof.id              <column>                       the column that identifies an event
    asof.column.<name>   <type> [<constraint> ...]      a column of the table
    asof.derive.<name>   <timestamp column> + <span>    how to fill a column that the file does not have ("-" works too)
    asof.derive.<name>   arrival                        ... with the moment at which asof took the row in (the knowledge time of live data)
    asof.future          <span>                         how far ahead of the wall clock a moment may be; one hour by default
    asof.quarantine      <share>                        ``asof ingest`` and ``push`` exit with 1 if a greater share of the rows is quarantined
    asof.missing         <mark>[, <mark> ...]           cells of CSV files that mean a missing value in every column; "" is the quoted empty cell

    type        int8 int16 int32 int64 float32 float64 bool string timestamp list[<type>]
    constraint  >= N   > N   <= N   < N     a bound on a number
                in LOW..HIGH                both bounds, inclusive
                in {a, b, c}                one of these strings
                required                    null is not allowed (it never is in the id, the time columns and the join keys)
                zoned                       a timestamp without time zone is not allowed (else it means UTC)

A table without ``asof.column`` tags has the columns that its Delta table has, or, before there is one, those of the
first file. Feast's own names are used for what Feast already declares: event time and knowledge time of the source, and the
join keys of the views that read from it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa

from asof.contract import EVENT_ID_TAG
from asof.errors import SettingsError, UsageError
from asof.instants import SECOND, parse_span

HOUR = 3_600 * SECOND
ARRIVAL = "arrival"
"""The derivation that gives the wall clock at the time of arrival."""

TYPES: dict[str, pa.DataType] = {
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(),
    "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip

LISTS: dict[str, pa.DataType] = {f"list[{name}]": pa.list_(arrow) for name, arrow in TYPES.items()}
"""Lists of them; the id, times and join keys are never lists."""

_OTHER_NAMES = {
    "int": "int64", "integer": "int64", "bigint": "int64", "float": "float64", "double": "float64", "str": "string", "text": "string",
    "varchar": "string", "boolean": "bool", "datetime": "timestamp", "date": "timestamp",
}  # fmt: skip
"""What other systems call a type -> its name here, for hints."""
_WORDS = ("required", "zoned")

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_CONSTRAINT = re.compile(
    rf"\s*,?\s*(?:(?P<op>>=|<=|>|<)\s*(?P<bound>{_NUMBER})|in\s+(?P<low>{_NUMBER})\s*\.\.\s*(?P<high>{_NUMBER})"
    r"|in\s+\{(?P<names>[^}]*)\}|(?P<word>required|zoned))"
)
_DERIVATION = re.compile(r"\s*(?P<source>\S(?:.*[^\s+-])?)\s*(?P<sign>[+-])\s*(?P<span>\d[^+-]*)")

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")
_TAGS = (EVENT_ID_TAG, "asof.future", "asof.quarantine", "asof.missing")
_PREFIXES = ("asof.column.", "asof.derive.")


@dataclass(frozen=True, slots=True)
class Column:
    """A declared column.

    Attributes:
        name: Its name in the files and in the table.
        dtype: A name of :data:`TYPES` or of :data:`LISTS`.
        bounds: Bounds on numbers, as (operator, number).
        choices: The strings that are allowed; empty for all.
        required: Whether null is refused.
        zoned: Whether a timestamp without time zone is refused.
    """

    name: str
    dtype: str
    bounds: tuple[tuple[str, float], ...] = ()
    choices: tuple[str, ...] = ()
    required: bool = False
    zoned: bool = False

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type in the table."""
        return LISTS[self.dtype] if self.listed else TYPES[self.dtype]

    @property
    def listed(self) -> bool:
        """Whether the column holds lists."""
        return self.dtype in LISTS

    @property
    def element(self) -> Column:
        """What is in its lists, as a column of its own."""
        return Column(f"{self.name}[]", self.dtype.removeprefix("list[").removesuffix("]"))

    @property
    def moment(self) -> bool:
        """Whether the column holds moments."""
        return self.dtype == "timestamp"

    @classmethod
    def parse(cls, name: str, text: str, owner: str) -> Self:
        """The column that the tag ``asof.column.<name>`` with the value ``text`` declares.

        Raises:
            SettingsError: ``text`` is not of the grammar.
        """
        dtype, _, rest = text.strip().partition(" ")
        found: dict[str, Any] = {"bounds": (), "choices": (), "required": False, "zoned": False}
        position = 0
        while rest[position:].strip():
            match = _CONSTRAINT.match(rest, position)
            if match is None:
                break
            _add(found, match)
            position = match.end()
        if dtype not in TYPES | LISTS or rest[position:].strip():
            hint = _closest_word(dtype, rest[position:])
            raise SettingsError(
                f"source {owner!r}, tag asof.column.{name}: got {text!r}{hint}, expected a type ({', '.join(TYPES)}, list[<type>]) and constraints such "
                "as '>= 0', 'in 0..1', 'in {a, b}', 'required', 'zoned'"
            )
        column = cls(name, dtype, **found)
        column._check(owner)
        return column

    def _check(self, owner: str) -> None:
        numeric = self.dtype.startswith(("int", "float"))
        wrong = [
            *(["a bound"] if self.bounds and not numeric else []),
            *(["a list of strings"] if self.choices and self.dtype != "string" else []),
            *(["'zoned'"] if self.zoned and not self.moment else []),
        ]
        if wrong:
            raise SettingsError(
                f"source {owner!r}, column {self.name!r}: {wrong[0]} does not fit the type {self.dtype}"
            )


@dataclass(frozen=True, slots=True)
class Derivation:
    """How to fill the timestamp ``column`` if a file lacks it: ``source`` plus ``shift`` microseconds; no source means arrival."""

    column: str
    source: str
    shift: int

    @classmethod
    def parse(cls, column: str, text: str, owner: str) -> Self:
        """The derivation that the tag ``asof.derive.<column>`` with the value ``text`` declares.

        Raises:
            SettingsError: ``text`` is not of the grammar.
        """
        if text.strip() == ARRIVAL:
            return cls(column, "", 0)
        match = _DERIVATION.fullmatch(text)
        try:
            if match is not None:
                shift = parse_span(match["span"])
                return cls(column, match["source"], shift if match["sign"] == "+" else -shift)
        except UsageError:
            pass
        raise SettingsError(
            f"source {owner!r}, tag asof.derive.{column}: got {text!r}, expected a timestamp column, + or -, and a span such as '7 days', or arrival"
        )


@dataclass(frozen=True)
class TableDeclaration:
    """A declared table.

    Attributes:
        name: Name of the Feast source.
        path: Folder of the Delta table, as declared; relative paths start at the feature repo.
        format: ``delta`` or ``parquet``; only Delta tables can be appended to.
        timestamp_field: Event time column.
        knowledge_field: Knowledge time column; None where there is none.
        keys: Join keys of the views that read from the table, under their names in the files.
        push_names: Push sources that feed the table.
        field_mapping: Column name in the files -> name in the views.
        tags: The source's tags.
    """

    name: str
    path: str
    format: Literal["delta", "parquet"]
    timestamp_field: str
    knowledge_field: str | None = None
    keys: tuple[str, ...] = ()
    push_names: tuple[str, ...] = ()
    field_mapping: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def id(self) -> str | None:
        """The column that identifies an event; None if no tag ``asof.id`` is declared."""
        return self.tags.get(EVENT_ID_TAG)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The declared columns: id, event time, keys, the others by name, knowledge time; empty if none is declared.

        Raises:
            SettingsError: A tag is not of the grammar, or names a column that is not declared.
        """
        declared = {name: Column.parse(name, text, self.name) for name, text in _tagged(self.tags, "asof.column.")}
        if declared:
            self._check(declared)
        return tuple(declared[name] for name in self.order(declared))

    @cached_property
    def derivations(self) -> dict[str, Derivation]:
        """Column -> how to derive it."""
        return {name: Derivation.parse(name, text, self.name) for name, text in _tagged(self.tags, "asof.derive.")}

    @property
    def stamped(self) -> bool:
        """Whether knowledge time is the time of arrival."""
        derivation = self.derivations.get(self.knowledge_field or "")
        return derivation is not None and not derivation.source

    @cached_property
    def tolerance(self) -> int:
        """Microseconds by which a timestamp may be ahead of the wall clock."""
        text = self.tags.get("asof.future")
        try:
            return HOUR if text is None else parse_span(text)
        except UsageError:
            raise SettingsError(
                f"source {self.name!r}, tag asof.future: got {text!r}, expected a span such as '1 hour'"
            ) from None

    @cached_property
    def most_quarantined(self) -> float | None:
        """The share of read rows, 0 to 1, above which an ingest counts as failed; None for no limit."""
        text = self.tags.get("asof.quarantine")
        match = _SHARE.fullmatch(text.strip()) if text is not None else None
        share = float(match[1]) / (100 if match[2] else 1) if match else None
        if text is not None and (share is None or share > 1):
            raise SettingsError(
                f"source {self.name!r}, tag asof.quarantine: got {text!r}, expected a share of the rows such as '1%' or '0.01'"
            )
        return share

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Cells of CSV files that mean a missing value in every column, those of strings included."""
        text = self.tags.get("asof.missing")
        marks = tuple(mark.strip() for mark in text.split(",")) if text is not None else ()
        if not all(marks):
            raise SettingsError(
                f"source {self.name!r}, tag asof.missing: got {text!r}, expected texts such as 'NA, -', and \"\" for a quoted empty cell"
            )
        return tuple("" if mark == '""' else mark for mark in marks)

    @property
    def required(self) -> frozenset[str]:
        """Columns that must not be null, even if their tags allow it."""
        named = {self.id, self.timestamp_field, self.knowledge_field, *self.keys}
        return frozenset(name for name in named if name)

    def check(self) -> None:
        """Read every tag.

        Raises:
            SettingsError: A tag is not of the grammar, unknown, or names a column that is not declared.
        """
        for tag in sorted(self.tags):
            if tag.startswith("asof.") and tag not in _TAGS and not tag.startswith(_PREFIXES):
                known = ", ".join((*_TAGS, *(f"{prefix}<name>" for prefix in _PREFIXES)))
                hint = _closest_tag(tag)
                raise SettingsError(f"source {self.name!r} has the unknown tag {tag!r}{hint} (known: {known})")
        _ = self.columns, self.derivations, self.tolerance, self.most_quarantined, self.missing

    def order(self, names: Iterable[str]) -> list[str]:
        """``names`` in the order of the table's columns."""
        first = [n for n in (self.id, self.timestamp_field, *self.keys) if n]
        rank = {name: i for i, name in enumerate(dict.fromkeys(first))}
        return sorted(names, key=lambda n: (n == self.knowledge_field and n not in rank, rank.get(n, len(rank)), n))

    def to_dict(self) -> dict[str, Any]:
        """The declaration as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """The declaration that :meth:`to_dict` made."""
        return cls(**{**payload, "keys": tuple(payload["keys"]), "push_names": tuple(payload["push_names"])})

    def _check(self, declared: Mapping[str, Column]) -> None:
        needed = {*self.required, *(d.source for d in self.derivations.values() if d.source), *self.derivations}
        if missing := sorted(needed - set(declared)):
            raise SettingsError(
                f"source {self.name!r} needs the columns {missing} but has no tag asof.column.<name> for them"
            )
        for name in declared:
            if twins := [n for n in declared if n != name and n.casefold() == name.casefold()]:
                raise SettingsError(
                    f"source {self.name!r} declares the columns {name!r} and {twins[0]!r}, which a Delta table cannot tell apart; rename one"
                )
        times = {
            self.timestamp_field,
            self.knowledge_field,
            *self.derivations,
            *(d.source for d in self.derivations.values() if d.source),
        }
        if wrong := sorted(n for n in times if n and not declared[n].moment):
            raise SettingsError(f"source {self.name!r}: the columns {wrong} hold moments, declare them as 'timestamp'")
        if lists := sorted(n for n in self.required if declared[n].listed):
            raise SettingsError(
                f"source {self.name!r}: the columns {lists} are the id or join keys, which cannot be lists"
            )


def _closest_tag(tag: str) -> str:
    """A hint at the tag that was probably meant; the name after ``asof.column.`` and the like is kept."""
    prefix, _, name = tag.removeprefix("asof.").partition(".")
    whole = [known.removeprefix("asof.") for known in _TAGS]
    close = difflib.get_close_matches(prefix, ["column", "derive"] if name else whole, n=1)
    return f"; did you mean {'.'.join(filter(None, ('asof', *close, name)))!r}?" if close else ""


def _closest_word(dtype: str, rest: str) -> str:
    """A hint at the type, or the word of a constraint, that was probably meant."""
    word, known = (
        (rest.strip(" ,").partition(" ")[0], _WORDS)
        if dtype in TYPES | LISTS
        else (dtype, [*TYPES, *LISTS, *_OTHER_NAMES])
    )
    close = difflib.get_close_matches(word.lower(), known, n=1)
    return f" (did you mean {_OTHER_NAMES.get(close[0], close[0])!r}?)" if close else ""


def _tagged(tags: Mapping[str, str], prefix: str) -> list[tuple[str, str]]:
    return [(tag.removeprefix(prefix), text) for tag, text in sorted(tags.items()) if tag.startswith(prefix)]


def _add(found: dict[str, Any], match: re.Match[str]) -> None:
    if match["op"]:
        found["bounds"] += ((match["op"], float(match["bound"])),)
    elif match["low"]:
        found["bounds"] += ((">=", float(match["low"])), ("<=", float(match["high"])))
    elif match["names"] is not None:
        found["choices"] += tuple(name.strip() for name in match["names"].split(","))
    else:
        found[match["word"]] = True
