"""``asof ingest``, ``push``, ``tables``, ``simulate``: adds rows to tables and shows tables. Runs without Feast once the registry was read."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from asof.atomic_file import replacing
from asof.cli import repo_option
from asof.console import emit, progress, table
from asof.errors import AsofError, SettingsError, UsageError
from asof.instants import format_moment
from asof.repo import Repo
from asof.settings import find_repo
from asof.tables import IngestReport, TableState, TableVersion, states, versions
from asof.tables import ingest as ingest_rows
from asof.tables import push as push_rows

FILES = click.Path(path_type=Path)


@click.command()
@click.argument("table", metavar="TABLE")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILES)
@click.pass_context
def ingest(ctx: click.Context, table: str, files: tuple[Path, ...]) -> None:
    """Add the rows of Parquet or CSV files, or of folders of them, to a table.

    Rows are checked against what is declared beside the source; ids seen before are not added twice; bad rows go to
    quarantine. All of it is one commit: a crash leaves the table as it was, and running it again adds nothing twice.

    Example: asof ingest orders orders.parquet
    """
    with progress(f"reading {len(files)} path{'s' if len(files) != 1 else ''}") as line:
        report = ingest_rows(Repo.open(repo_option(ctx)), table, files, progress=line)
    emit(report.to_dict(), _told(report))
    ctx.exit(0 if report.accepted else 1)


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILES)
@click.pass_context
def push(ctx: click.Context, source: str, files: tuple[Path, ...]) -> None:
    """Add the rows of files to a table and, at once, to the online views that read from it.

    SOURCE is a push source or a table. Pushing the same rows again changes nothing.

    Example: asof push orders_push new.parquet
    """
    report = push_rows(Repo.open(repo_option(ctx)), source, files)
    online = ", ".join(f"{view} {count:,}" for view, count in report.online.items()) or "no view reads from it"
    emit(report.to_dict(), f"{_told(report.offline)}\nnew online: {online}")
    ctx.exit(0 if report.offline.accepted else 1)


@click.command()
@click.argument("name", metavar="[TABLE]", required=False)
@click.pass_context
def tables(ctx: click.Context, name: str | None) -> None:
    """Show every table, or the versions of one.

    Example: asof tables orders
    """
    repo = Repo.open(repo_option(ctx))
    if name is None:
        found = states(repo)
        emit({"tables": [state.to_dict() for state in found]}, _table_of_states(found))
    else:
        commits = versions(repo, name)
        emit({"table": name, "versions": [commit.to_dict() for commit in commits]}, _table_of_versions(name, commits))


class SimulateCommand(click.Command):
    """Its options are the parameters of the repo's own ``simulate`` function, so that asof knows nothing of what is simulated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; a repo without a simulator is named before its options are missed."""
        if not {"-h", "--help"} & set(args):
            _simulator(find_repo(repo_option(ctx)))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The fixed options and those of the repo's simulator; without a repo, the fixed ones only."""
        try:
            function = _simulator(find_repo(repo_option(ctx)))
        except AsofError:
            return super().get_params(ctx)
        return [*_options(function), *super().get_params(ctx)]


@click.command(cls=SimulateCommand)
@click.option("-o", "--output", metavar="FILE", required=True, type=FILES, help="Parquet or CSV file to write.")
@click.pass_context
def simulate(ctx: click.Context, /, output: Path, **options: Any) -> None:
    """Make data with the simulator of the feature repo (its simulate.py), whose parameters are the options.

    The same options give the same rows.

    Example: asof simulate --seed 1 -o events.parquet
    """
    function = _simulator(find_repo(repo_option(ctx)))
    write = _writer_of(output)
    try:
        rows = function(**{name: value.date() if hasattr(value, "date") else value for name, value in options.items()})
    except (ValueError, OverflowError, MemoryError) as error:
        raise UsageError(f"these options cannot be simulated: {' '.join(str(error).split())}") from error
    try:
        with replacing(output) as unfinished:
            write(rows, unfinished)
    except OSError as error:
        raise AsofError(f"cannot write {output}: {error.strerror or error}") from error
    emit({"rows": rows.num_rows, "file": str(output)}, f"{rows.num_rows:,} rows -> {output}")


def _simulator(repo: Path) -> Callable[..., pa.Table]:
    """The function ``simulate`` of ``<repo>/simulate.py``."""
    path = repo / "simulate.py"
    if not path.is_file():
        raise SettingsError(
            f"this repo has no simulator: {path} does not exist; give `asof ingest` a file of real rows instead"
        )
    module = _load(path)
    function = getattr(module, "simulate", None)
    if not callable(function):
        raise SettingsError(f"{path} has no function called simulate")
    found: Callable[..., pa.Table] = function
    return found


def _load(path: Path) -> ModuleType:
    name = f"asof_simulator_{abs(hash(path))}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise SettingsError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise SettingsError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
        sys.modules[name] = module
    return sys.modules[name]


def _options(function: Callable[..., Any]) -> list[click.Parameter]:
    helps = _argument_docs(inspect.getdoc(function) or "")
    return [_option(p, helps.get(p.name, "")) for p in inspect.signature(function, eval_str=True).parameters.values()]


def _option(parameter: inspect.Parameter, text: str) -> click.Option:
    required = parameter.default is inspect.Parameter.empty
    default = parameter.default.isoformat() if isinstance(parameter.default, date) else parameter.default
    return click.Option(
        [f"--{parameter.name.replace('_', '-')}", parameter.name],
        type=_click_type(parameter, text),
        required=required,
        default=None if required else default,
        show_default=not required,
        help=text,
    )


def _click_type(parameter: inspect.Parameter, text: str) -> click.ParamType[Any]:
    if parameter.annotation is int:
        least = next((n for n in (0, 1) if f"at least {n}" in text), None)
        return click.IntRange(min=least)
    return {float: click.FLOAT, date: click.DateTime(["%Y-%m-%d"]), bool: click.BOOL}.get(
        parameter.annotation, click.STRING
    )


def _argument_docs(doc: str) -> dict[str, str]:
    """Parameter -> its line in the ``Args:`` section."""
    _, _, section = doc.partition("Args:\n")
    lines = section.partition("\n\n")[0].splitlines()
    pairs = [line.strip().partition(": ") for line in lines]
    return {name: text for name, _, text in pairs if name.isidentifier()}


def _writer_of(output: Path) -> Callable[[pa.Table, Path], None]:
    suffix = output.suffix.lower()
    if suffix not in {".parquet", ".csv"}:
        raise UsageError(f"got the output file {output}, expected a name that ends in .parquet or .csv")
    writer: Callable[[pa.Table, Path], None] = pq.write_table if suffix == ".parquet" else pa_csv.write_csv
    return writer


def _told(report: IngestReport) -> str:
    lines = [
        f"{report.table}: read {report.rows_read:,} rows, added {report.rows_added:,}, "
        f"{report.duplicates:,} duplicates, {report.quarantined:,} in quarantine; "
        + (f"version {report.version}" if report.version is not None else "no version yet")
    ]
    lines += [f"  quarantined {count:,}: {reason}" for reason, count in report.reasons.items()]
    if not report.accepted:
        lines.append(
            f"  {report.quarantined / report.rows_read:.1%} of the rows are in quarantine, the table's tag asof.quarantine allows "
            f"{report.most_quarantined:.1%}; the good rows were added"
        )
    if report.ignored:
        lines.append(f"  columns that the table does not have were left out: {', '.join(report.ignored)}")
    return "\n".join(lines)


def _table_of_states(found: list[TableState]) -> str:
    if not found:
        return "no table is declared yet; declare a FileSource and run `asof apply`"
    header = ("table", "version", "rows", "files", "MB", "first event", "last event", "quarantined")
    rows = [
        (
            s.table,
            s.version,
            s.rows,
            s.files,
            s.bytes / 1e6,
            None if s.first is None else format_moment(s.first),
            None if s.last is None else format_moment(s.last),
            s.quarantined,
        )
        for s in found
    ]
    return table(header, rows)


def _table_of_versions(name: str, commits: list[TableVersion]) -> str:
    if not commits:
        return f"{name} has no rows yet; add some with `asof ingest {name} FILE`"
    header = ("version", "when", "what", "read", "added", "duplicates", "quarantined")
    rows = [
        (c.version, format_moment(c.moment), c.operation, c.rows_read, c.rows_added, c.duplicates, c.quarantined)
        for c in commits
    ]
    return table(header, rows)
