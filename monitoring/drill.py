"""Drills: writes a copy of a prediction log as it would look after an incident, to test the alarms.

:func:`manipulate` writes the copy; ``asof drift MODEL --log FOLDER`` and ``asof skew MODEL --log FOLDER`` look at it. A change of a
request field has its real consequences: on-demand features that read it are recomputed (if everything that they read is in the log),
and so are the model's scores; ``asof skew`` on the copy finds nothing. A change of a feature simulates a faulty feed: only the score
is recomputed. Only the copy is written.

From Python::

    manipulate(log, Window(), Path("copy"), [ColumnChange("tx_amount", "scale", 5.0)], share=1 / 3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from asof import prediction_log
from asof.contract import Field, OnDemandView, on_demand
from asof.errors import NotFoundError, UsageError
from asof.feature_vectors import as_column, as_python, matrix
from asof.monitoring.observed import Log, Window, judged_code
from asof.prediction_log import prediction_columns
from asof.quantities import counted
from asof.rendering import Rendered
from asof.statistics.design_effect import hashes
from asof.task import combined

Kind = Literal["scale", "add", "set", "missing"]
_NULL = 1
"""Status of a feature whose row exists and whose value is missing."""


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """A change of one column.

    Attributes:
        column: A request field, else a feature.
        kind: ``scale`` multiplies, ``add`` adds, ``set`` replaces (a category shifts to another), ``missing`` removes.
        value: Factor, summand or new value; nothing for ``missing``.
    """

    column: str
    kind: Kind
    value: Any = None


@dataclass(frozen=True, slots=True, repr=False)
class DrillReport(Rendered):
    """What :func:`manipulate` wrote.

    Attributes:
        folder: The copy; give it to ``asof drift --log``.
        rows: Rows of the copy.
        changed: Rows that were changed.
        computed: On-demand features that were recomputed.
        kept: On-demand features that were not, because the log lacks something that they read.
        model: Name of the model.
        version: Version of its bundle.
        problems: Files of the log that could not be read.
    """

    folder: str
    rows: int
    changed: int
    computed: tuple[str, ...]
    kept: tuple[str, ...]
    model: str
    version: str
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """See :func:`asof.monitoring.observed.judged_code`."""
        return judged_code(self.problems, judged=self.rows > 0, alarm=False)

    def parts(self) -> Iterator[str]:
        """How many rows were changed, and what to do next."""
        yield f"{self.changed:,} of {counted(self.rows, 'row')} changed; now run: asof drift {self.model} --log {self.folder}"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return asdict(self)


def manipulate(
    log: Log,
    window: Window,
    folder: Path,
    changes: Sequence[ColumnChange],
    *,
    share: float = 1.0,
    seed: int = 0,
    append: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> DrillReport:
    """Write a manipulated copy of a window of the log.

    Args:
        log: The log.
        window: The moments to copy.
        folder: Folder of the copy's prediction logs; it must not hold a log of the model.
        changes: Changes of the chosen rows.
        share: Share of the rows that are changed, 0 to 1; which ones depends on their request ids and the seed alone.
        seed: Seed for choosing the rows.
        append: Whether the folder may hold a log of the model, to which the rows are added.
        advance: Called with the number of rows that were copied, for progress.

    Raises:
        NotFoundError: There is no log of the model, or a column is neither a request field nor a feature.
        UsageError: The folder holds a log already, or a change does not fit its column.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"got the share {share:g}, expected a number between 0 and 1")
    if not append and (folder / log.bundle.model).exists():
        raise UsageError(f"{folder} holds a log of {log.bundle.model!r} already; name an empty folder")
    incident = _Incident(log, changes)
    rows = changed = 0
    for table in log.batches(window):
        chosen = _chosen(table, share, seed)
        prediction_log.write(folder, log.bundle.model, incident.apply(table, chosen))
        rows, changed = rows + table.num_rows, changed + int(chosen.sum())
        advance(table.num_rows)
    bundle, problems = log.bundle, tuple(log.problems)
    return DrillReport(
        str(folder), rows, changed, incident.computed, incident.kept, bundle.model, bundle.version, problems
    )


def _chosen(table: pa.Table, share: float, seed: int) -> npt.NDArray[np.bool_]:
    named = pa.array(
        [f"{seed}/{one}/{row}" for one, row in zip(*(table[c].to_pylist() for c in ("request_id", "row")), strict=True)]
    )
    # A hash modulo a large prime, scaled to [0, 1).
    return np.asarray(hashes(named) % np.uint64(1_000_003) < share * 1_000_003)


class _Incident:
    def __init__(self, log: Log, changes: Sequence[ColumnChange]) -> None:
        self._bundle, self._contract = log.bundle, log.bundle.contract
        fields = {f.name: f"request.{f.name}" for f in self._contract.request_fields}
        known = {name: f"feature.{name}" for name in self._contract.feature_names} | fields
        for change in changes:
            if change.column not in known:
                raise NotFoundError("request field or feature", change.column, known)
        self._changes = [(known[change.column], change) for change in changes]
        touched = {change.column for change in changes if change.column in fields}
        affected = [view for view in self._contract.on_demand if touched & {f.name for f in view.request}]
        logged = {(f.view, f.feature): f.name for f in self._contract.features}
        self._views = [view for view in affected if all(pair in logged for pair in view.inputs)]
        self._logged = logged
        self.computed = self._names(self._views)
        self.kept = self._names([view for view in affected if view not in self._views])
        on_demand.add_path(str(log.bundle.code))

    def apply(self, table: pa.Table, chosen: npt.NDArray[np.bool_]) -> pa.Table:
        """``table`` with the changes in its ``chosen`` rows."""
        for name, change in self._changes:
            table = _replaced(table, name, _changed(table[name].combine_chunks(), change, chosen))
            if change.kind == "missing" and name.startswith("feature."):
                status = f"status.{change.column}"
                table = _replaced(
                    table, status, pa.array(np.where(chosen, _NULL, table[status].to_numpy()), pa.uint8())
                )
        for view in self._views:
            table = self._computed(table, view)
        return self._scored(table)

    def _names(self, views: Sequence[OnDemandView]) -> tuple[str, ...]:
        aliases = {view.alias for view in views}
        return tuple(f.name for f in self._contract.features if f.on_demand and f.view in aliases)

    def _computed(self, table: pa.Table, view: OnDemandView) -> pa.Table:
        fields = {f.name: f for v in self._contract.views for f in v.features}
        given = {
            name: as_python(fields[name], table[f"feature.{self._logged[alias, name]}"].to_pylist())
            for alias, name in view.inputs
        }
        given |= {f.name: as_python(f, table[f"request.{f.name}"].to_pylist()) for f in view.request}
        for name, values in on_demand.compute_view(view, given).items():
            if (view.alias, name) in self._logged:
                column = f"feature.{self._logged[view.alias, name]}"
                table = _replaced(table, column, pa.array(values, table.schema.field(column).type, from_pandas=True))
        return table

    def _scored(self, table: pa.Table) -> pa.Table:
        """``table`` with predictions recomputed by the bundle's boosters; unchanged if there are none."""
        names, task = self._bundle.metadata.get("features"), self._bundle.task
        if not names or not all(file.is_file() for file in self._bundle.booster_files):
            return table
        import lightgbm

        columns = {
            f.name: as_column(Field(f.name, f.dtype), table[f"feature.{f.name}"].to_pylist())
            for f in self._contract.features
            if f.name in names
        }
        given = matrix(self._contract, columns, names, self._bundle.vocabularies)
        boosters = [lightgbm.Booster(model_str=file.read_text()) for file in self._bundle.booster_files]
        outputs = combined(task, [np.asarray(booster.predict(given), np.float64) for booster in boosters])
        for column, values in prediction_columns(task, outputs, self._bundle.threshold).items():
            table = _replaced(table, column, values)
        return table


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


def _changed(column: pa.Array, change: ColumnChange, chosen: npt.NDArray[np.bool_]) -> pa.Array:
    import pyarrow.compute as pc

    try:
        if change.kind == "missing":
            new = pa.scalar(None, column.type)
        elif change.kind == "set":
            new = pa.scalar(change.value).cast(column.type)
        else:
            operation = pc.multiply if change.kind == "scale" else pc.add
            new = operation(column.cast(pa.float64()), float(change.value)).cast(column.type, safe=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise UsageError(
            f"{change.kind} {change.value!r} does not fit column {change.column!r} of type {column.type}"
        ) from error
    return pc.if_else(pa.array(chosen), new, column)
