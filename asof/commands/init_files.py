"""The files of a new feature repo, as text: settings, definitions, a model declaration and a test."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from string import Template

from asof.commands.init_guesses import stem

AVERAGED = 5
"""Most columns whose means become features; more are easily added by hand."""

_DAYS = (1, 7, 30)
_HOURS = (1, 6, 24)


@dataclass(frozen=True)
class RepoOutline:
    """What the files of a new repo say.

    Attributes:
        name: The project; its service is ``<name>_v1``.
        table: Name of the table of events.
        columns: Column -> declared type.
        id: Column that identifies a row; None if there is none.
        keys: Key columns.
        event_time: Column of the events' moments.
        known_at: Column of the moments from which rows are known; None if it is derived.
        delay: How long after an event it is known, where that is derived.
        label: Column of labels, 0 or 1; None for a repo without a model.
        label_time: Column of the moments from which labels are known; None if that is derived.
        label_delay: How long after an event its label is known, where that is derived.
        later: Columns that are known with the label, not with the event.
        span: Time between the first and the last event.
    """

    name: str
    table: str
    columns: dict[str, str]
    id: str | None
    keys: tuple[str, ...]
    event_time: str
    known_at: str | None
    delay: str
    label: str | None
    label_time: str | None
    label_delay: str
    later: tuple[str, ...]
    span: timedelta

    @property
    def service(self) -> str:
        """The feature service."""
        return f"{self.name}_v1"

    @property
    def labels(self) -> str:
        """The table of labels."""
        return f"{self.table}_labels"

    @property
    def windows(self) -> dict[str, str]:
        """Windows that fit the file: what they are called -> their length as Python."""
        if self.span < timedelta(days=3):
            return {f"{n}h": f"timedelta(hours={n})" for n in _HOURS}
        return {f"{n}d": f"timedelta(days={n})" for n in _DAYS}

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns of numbers that are known with the event."""
        apart = {self.id, *self.keys, self.label, *self.later}
        return tuple(n for n, t in self.columns.items() if t.startswith(("int", "float")) and n not in apart)

    @property
    def entity_names(self) -> dict[str, str]:
        """Key column -> name of its entity."""
        return {key: plain_name(stem(key, self.keys)) for key in self.keys}

    @property
    def words(self) -> dict[str, str]:
        """Column -> how features that are made from it are called: a Python name that no other column has."""
        found: dict[str, str] = {}
        for name in self.columns:
            word = name if name.isidentifier() else plain_name(name)
            found[name] = word if word not in found.values() else f"{word}_{len(found)}"
        return found

    def derived(self, wanted: str) -> str:
        """A name for a derived column that no column has."""
        return wanted if wanted not in self.columns else f"{self.table}_{wanted}"


def files(outline: RepoOutline) -> dict[str, str]:
    """Path in the repo -> text."""
    made = {
        "feature_store.yaml": _SETTINGS.substitute(project=outline.name),
        ".feastignore": "data/\nmodels/\ntests/\n",
        ".gitignore": "data/\n__pycache__/\n",
        "definitions.py": _definitions(outline),
        "functions.py": _functions(outline),
        "tests/test_definitions.py": _test(outline),
    }
    if outline.label:
        made[f"models/{outline.name}.py"] = _model(outline)
    return made


def _counted(outline: RepoOutline) -> tuple[str, str]:
    """The feature that the repo's test counts by hand, and its window as Python."""
    name, length = list(outline.windows.items())[1]
    return f"{outline.entity_names[outline.keys[0]]}_count_{name}", length


def _definitions(outline: RepoOutline) -> str:
    tables = [_events(outline), *([_labels(outline)] if outline.label else [])]
    views = [_view(outline, key, outline.table, "") for key in outline.keys]
    if outline.label:
        views += [_view(outline, key, outline.labels, outline.label) for key in outline.keys]
    names = [name for name, _ in views]
    text = [outline.columns[k] == "string" for k in outline.keys]
    entities = [
        f"{name} = Entity(name={_q(name)}, join_keys=[{_q(key)}], value_type=ValueType.{'STRING' if textual else 'INT64'})"
        for (key, name), textual in zip(outline.entity_names.items(), text, strict=True)
    ]
    types = {"Float64", "Int64", "UnixTimestamp", *(["String"] if any(text) else [])}
    return _DEFINITIONS.substitute(
        types=", ".join(sorted(types)), entities="\n".join(entities), tables="\n\n".join(tables),
        views="\n\n".join(text for _, text in views), now=_now(outline),
        service=outline.service, views_list=", ".join([*names, "row"]),
    )  # fmt: skip


def _events(outline: RepoOutline) -> str:
    known = outline.known_at or outline.derived("known_at")
    kept = [n for n in outline.columns if n not in {outline.label, outline.label_time, *outline.later}]
    derived = {} if outline.known_at else {known: f"{outline.event_time} + {outline.delay}"}
    return _source(outline, outline.table, kept, outline.event_time, known, derived)


def _labels(outline: RepoOutline) -> str:
    moment = outline.label_time or outline.event_time
    wanted = {outline.id, *outline.keys, outline.label, moment, *outline.later}
    known = outline.derived("label_known_at")
    delay = "0 days" if outline.label_time else outline.label_delay
    kept = [n for n in outline.columns if n in wanted]
    return _source(outline, outline.labels, kept, moment, known, {known: f"{moment} + {delay}"})


def _source(
    outline: RepoOutline, table: str, columns: list[str], moment: str, known: str, derived: dict[str, str]
) -> str:
    declared = {n: "int8 in 0..1" if n == outline.label else outline.columns[n] for n in columns}
    declared.setdefault(known, "timestamp")
    tags = {
        **({"asof.id": outline.id} if outline.id else {}),
        **{f"asof.column.{name}": dtype for name, dtype in declared.items()},
        **{f"asof.derive.{name}": text for name, text in derived.items()},
    }
    lines = "\n".join(f"        {_q(name)}: {_q(text)}," for name, text in tags.items())
    return _SOURCE.substitute(
        table=table, name=_q(table), path=_q(f"data/tables/{table}"), moment=_q(moment), known=_q(known), tags=lines
    )


def _view(outline: RepoOutline, key: str, table: str, label: str) -> tuple[str, str]:
    """The name of a view's variable, and its text: counts and means of a key's earlier rows, or the share of its labels."""
    entity = outline.entity_names[key]
    short, middle, long = outline.windows
    means = (
        [(label, w) for w in (middle, long)]
        if label
        else [(c, w) for c in outline.numbers[:AVERAGED] for w in (middle, long)]
    )
    words = outline.words
    found = [(f"{entity}_{words[c]}_mean_{w}", "Float64", c, "mean", w) for c, w in means]
    if not label:
        found = [
            *((f"{entity}_count_{w}", "Int64", outline.id or key, "count", w) for w in (short, middle, long)),
            *found,
        ]
    dtype = "String" if outline.columns[key] == "string" else "Int64"
    name = f"{entity}_{table}"
    text = _VIEW.substitute(
        variable=name, name=_q(name), entity=entity, table=table, push=_q(f"{name}_push"),
        moment=_q((outline.label_time or outline.event_time) if label else outline.event_time), key=_q(key), dtype=dtype,
        fields="\n".join(f"        Field(name={_q(n)}, dtype={t})," for n, t, *_ in found),
        aggregations="\n".join(
            f"        Aggregation(column={_q(c)}, function={_q(f)}, time_window={outline.windows[w]}, name={_q(n)}),"
            for n, _, c, f, w in found
        ),
    )  # fmt: skip
    return name, text


def _now(outline: RepoOutline) -> str:
    types = {n: "Int64" if outline.columns[n].startswith("int") else "Float64" for n in outline.numbers}
    given = [f"        Field(name={_q(n)}, dtype={t})," for n, t in types.items()]
    made = [f"        Field(name={_q(f'{outline.words[n]}_now')}, dtype={t})," for n, t in types.items()]
    return _ROW.substitute(
        moment=_q(outline.event_time),
        given="\n".join([*given, ""]).lstrip("\n"),
        made="\n".join([*made, ""]).lstrip("\n"),
    )


def _functions(outline: RepoOutline) -> str:
    lines = "".join(f"        {_q(f'{outline.words[n]}_now')}: list(inputs[{_q(n)}]),\n" for n in outline.numbers)
    return _FUNCTIONS.substitute(lines=lines, moment=_q(outline.event_time))


def _model(outline: RepoOutline) -> str:
    delay = "" if outline.label_time else f"    label_delay={_q(outline.label_delay)},\n"
    keys = "".join(f"{_q(key)}, " for key in outline.keys).strip()
    return _MODEL.substitute(
        name=outline.name, service=_q(outline.service), table=_q(outline.table), labels=_q(outline.labels),
        moment=_q(outline.event_time), id=_q(outline.id or ""), keys=keys if len(outline.keys) == 1 else keys.rstrip(","),
        label=_q(outline.label or ""), delay=delay, unit=_q(outline.keys[0]),
    )  # fmt: skip


def _test(outline: RepoOutline) -> str:
    tables = [outline.table, *([outline.labels] if outline.label else [])]
    feature, length = _counted(outline)
    known = f"row[{_q(outline.known_at)}]" if outline.known_at else f"row[MOMENT] + {_timedelta(outline.delay)}"
    return _TEST.substitute(
        tables=f"[{', '.join(_q(name) for name in tables)}]", service=_q(outline.service), key=_q(outline.keys[0]),
        moment=_q(outline.event_time), feature=_q(feature), length=length, known=known,
    )  # fmt: skip


def _timedelta(span: str) -> str:
    from asof.instants import parse_span

    return f"timedelta(microseconds={parse_span(span)})"


def _q(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def plain_name(text: str) -> str:
    """``text`` as a lower-case Python name."""
    name = re.sub(r"\W+", "_", text.lower()).strip("_") or "events"
    return name if name.isidentifier() else f"t_{name}"


_SETTINGS = Template("""\
project: $project
registry: data/registry.db
provider: asof.provider.AsofProvider
offline_store:
  type: asof.offline.DuckDBOfflineStore
online_store:
  type: asof.online.RedisOnlineStore
  connection_string: embedded
batch_engine:
  type: asof.engine.DuckDBComputeEngine
entity_key_serialization_version: 3
""")

_DEFINITIONS = Template('''\
"""What the tables hold, and what the features are. Change it, then run `asof plan`."""

from datetime import timedelta

import functions
from feast import Entity, FeatureService, Field, FileSource, PushSource, RequestSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import $types

$entities

$tables

$views

$now

$service = FeatureService(name="$service", features=[$views_list])
''')

_SOURCE = Template("""\
$table = FileSource(
    name=$name,
    path=$path,
    file_format=DeltaFormat(),
    timestamp_field=$moment,
    created_timestamp_column=$known,
    tags={
$tags
    },
)""")

_VIEW = Template("""\
$variable = StreamFeatureView(
    name=$name,
    entities=[$entity],
    timestamp_field=$moment,
    source=PushSource(name=$push, batch_source=$table),
    schema=[
        Field(name=$key, dtype=$dtype),
$fields
    ],
    aggregations=[
$aggregations
    ],
)""")

_ROW = Template("""\
given = RequestSource(
    name="given",
    schema=[
${given}        Field(name=$moment, dtype=UnixTimestamp),
    ],
)

row = on_demand_feature_view(
    sources=[given],
    schema=[
${made}        Field(name="hour", dtype=Int64),
    ],
    mode="python",
)(functions.row)""")

_FUNCTIONS = Template('''\
"""Features that are computed from the request. The service imports this file, so it must not import Feast."""


def row(inputs: dict[str, list]) -> dict[str, list]:
    """What the row itself says, and the hour of the day in UTC."""
    return {
$lines        "hour": [None if moment is None else moment.hour for moment in inputs[$moment]],
    }
''')

_MODEL = Template('''\
"""What is predicted, and from which rows it is learned. `asof train $name` reads this file."""

from asof.training.model import LabelledRows, Model

$name = Model(
    name="$name",
    service=$service,
    rows=LabelledRows(
        table=$table,
        event_time=$moment,
        id=$id,
        keys=($keys),
        label=$label,
        label_table=$labels,
    ),
$delay    unit=$unit,
)
''')

_TEST = Template('''\
"""Counts a feature by hand and compares it with what asof says. Run it with: python -m pytest"""

import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import polars as pl

REPO = Path(__file__).resolve().parents[1]
ROWS = REPO / "tests" / "rows.parquet"
TABLES = $tables
KEY, MOMENT, FEATURE, WINDOW = $key, $moment, $feature, $length


def known(row: dict) -> object:
    """When a row of the file became known."""
    return $known


def test_a_count_is_what_the_file_says(tmp_path: Path) -> None:
    """The count of a row's key within the window holds exactly the rows that were known at its moment."""
    repo = tmp_path / "repo"
    shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("data"))
    asof = (sys.executable, "-m", "asof", "--repo", repo)
    try:
        for arguments in (
            ("apply",),
            *(("ingest", table, ROWS) for table in TABLES),
            ("dataset", $service, "--entities", ROWS, "--at", MOMENT, "-o", tmp_path / "made.parquet"),
        ):
            subprocess.run([*asof, *arguments], check=True)
    finally:
        subprocess.run([*asof, "redis", "stop"], check=False)
    rows = pl.read_parquet(ROWS).to_dicts()

    by_hand = [
        sum(
            other[KEY] == row[KEY] and row[MOMENT] - WINDOW < other[MOMENT] <= row[MOMENT] and known(other) <= row[MOMENT]
            for other in rows
        )
        for row in rows
    ]

    assert pl.read_parquet(tmp_path / "made.parquet")[FEATURE].to_list() == by_hand
''')
