"""``asof init``: makes a feature repo from a file of events."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asof.atomic_file import replacing
from asof.commands.init_files import RepoOutline, files, plain_name
from asof.commands.init_guesses import SampleRows, stem
from asof.console import emit, table
from asof.errors import NotFoundError, UsageError
from asof.instants import parse_span
from asof.quantities import counted

if TYPE_CHECKING:
    import polars as pl

TEST_ROWS = 200
"""Rows of the file that the repo's own test is run on."""

TEST_KEYS = 3
"""Keys whose rows these are."""

NOTHING = "none"
"""The answer of someone whose file has no such column."""


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--into", metavar="FOLDER", type=click.Path(path_type=Path), help="New folder; by default named like the file."
)
@click.option("--id", "row_id", metavar="COLUMN", help="Column that identifies a row.")
@click.option("--key", "keys", metavar="COLUMN", multiple=True, help="Column of an entity; may be given several times.")
@click.option("--event-time", metavar="COLUMN", help="When a row happened.")
@click.option("--known-at", metavar="COLUMN", help="When a row became known, if a column says so.")
@click.option("--delay", metavar="SPAN", help="Else how long after it happened; by default 1 microsecond.")
@click.option("--label", metavar="COLUMN", help="What a model predicts, 0 or 1; 'none' for a repo without a model.")
@click.option("--label-time", metavar="COLUMN", help="When the label is known, if a column says so.")
@click.option("--label-delay", metavar="SPAN", help="Else how long after the event the label is known.")
@click.option(
    "--later",
    metavar="COLUMN",
    multiple=True,
    help="Column that is known with the label only; may be given several times.",
)
@click.option("--yes", is_flag=True, help="Ask nothing: take the guesses, and refuse what cannot be guessed.")
def init(file: Path, into: Path | None, yes: bool, **given: Any) -> None:
    """Make a feature repo from a Parquet or CSV file of events.

    Guesses keys, times and types from the first rows and asks whether the guesses are right. Writes settings, definitions that apply, a
    feature service, a model declaration if there is a label, and a test. Never writes into a folder that has files.

    \b
    Example: asof init orders.parquet
    Example: asof init orders.parquet --label late --label-time arrived_at --later delay_minutes --yes
    """
    folder = into or Path(plain_name(file.name.partition(".")[0]))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists; asof init writes a new folder only, name another one with --into FOLDER")
    sample = SampleRows.of(file)
    outline = _outline(
        sample, plain_name(folder.resolve().name), plain_name(file.name.partition(".")[0]), given, yes=yes
    )
    written = _write(folder, outline, sample)
    steps = _steps(folder, outline, file)
    emit(
        {
            "repo": str(folder), "files": written, "left_out": sample.left_out, "service": outline.service, "table": outline.table,
            "id": outline.id, "keys": list(outline.keys), "event_time": outline.event_time, "known_at": outline.known_at,
            "label": outline.label, "label_time": outline.label_time, "later": list(outline.later),
            "numbers": list(outline.numbers), "next": steps,
        },
        _told(folder, outline, sample, written, steps),
    )  # fmt: skip


def _outline(sample: SampleRows, name: str, events: str, given: dict[str, Any], *, yes: bool) -> RepoOutline:
    """The answers to all questions: given, guessed, or asked for."""
    ask = _Questions(sample, asked=not yes)
    event_time = ask.column(
        "When did a row happen?", "--event-time", given["event_time"], sample.event_time(), moment=True
    )
    if event_time is None:
        raise UsageError(
            f"{_columns(sample)}; none holds moments in every row, expected timestamps: name a column with --event-time COLUMN"
        )
    row_id = ask.column("Which column identifies a row?", "--id", given["row_id"], sample.id(), none=True)
    guess = sample.keys([row_id, event_time, given["label"]])
    keys = ask.columns("Which columns are entities that features are about?", "--key", given["keys"], guess)
    if not keys:
        raise UsageError(f"{_columns(sample)}; none repeats like a key: name one with --key COLUMN")
    known = None if given["delay"] else sample.known_at(event_time)
    known_at = ask.column(
        "Which column says when a row became known?", "--known-at", given["known_at"], known, moment=True, none=True
    )
    delay = ask.span(
        "How long after it happened is a row known?",
        "--delay",
        given["delay"] or ("" if known_at else None),
        "1 microsecond",
    )
    labelled = _labelled(ask, given, row_id, event_time, [row_id, event_time, known_at, *keys])
    return RepoOutline(
        name=name, table=_apart(events, keys), columns={c.name: c.dtype for c in sample.columns.values()}, id=row_id, keys=keys,
        event_time=event_time, known_at=known_at, delay=delay, span=sample.span(event_time), **labelled,
    )  # fmt: skip


def _apart(events: str, keys: Sequence[str]) -> str:
    """The table's name, apart from what else definitions.py names."""
    taken = {"given", "row", "functions", "timedelta", *(stem(key, keys) for key in keys)}
    return f"{events}_events" if events in taken else events


def _labelled(
    ask: _Questions, given: dict[str, Any], row_id: str | None, event_time: str, taken: list[str | None]
) -> dict[str, Any]:
    """What the outline says of the label: its column, when it is known, and what is known with it."""
    label = _label(ask, given["label"], taken, row_id)
    if label is None:
        return {"label": None, "label_time": None, "label_delay": "0 days", "later": ()}
    guess = None if given["label_delay"] else ask.sample.label_time(event_time, taken)
    time = ask.column(
        "Which column says when the label is known?", "--label-time", given["label_time"], guess, moment=True, none=True
    )
    delay = ask.span(
        "How long after the event is its label known?", "--label-delay", given["label_delay"] or ("" if time else None), None,
        why=f"{_columns(ask.sample)}; none says when {label!r} is known: name it with --label-time COLUMN, or give",
    )  # fmt: skip
    later = ask.columns(f"Which columns are known with {label!r} only?", "--later", given["later"], (), none=True)
    return {"label": label, "label_time": time, "label_delay": delay, "later": later}


def _label(ask: _Questions, given: str | None, taken: Sequence[str | None], row_id: str | None) -> str | None:
    if given == NOTHING or (given is None and row_id is None and not ask.asked):
        return None
    label = ask.column("What should a model predict?", "--label", given, ask.sample.label(taken), none=True)
    if label is None:
        return None
    if not ask.sample.columns[label].binary:
        raise UsageError(
            f"got the label {label!r}, expected a column of zeros and ones (whole numbers, or true and false), both of them"
        )
    if row_id is None:
        raise UsageError(
            "a model needs a column that identifies a row, to find its label by; add one to the file and name it with --id COLUMN"
        )
    return label


class _Questions:
    """Asks for what was not given; with ``--yes`` takes the guess.

    Args:
        sample: The file's first rows.
        asked: Whether to ask at all.
    """

    def __init__(self, sample: SampleRows, *, asked: bool) -> None:
        self.sample, self.asked = sample, asked

    def column(
        self,
        question: str,
        option: str,
        given: str | None,
        guess: str | None,
        *,
        moment: bool = False,
        none: bool = False,
    ) -> str | None:
        """The name of a column; None where there is none."""
        answer = given
        if answer is None and self.asked:
            answer = self._prompt(f"{question} ({option})", guess or (NOTHING if none else None))
        answer = guess if answer is None else answer
        return None if answer is None or (none and answer == NOTHING) else self._known(answer, option, moment=moment)

    def columns(
        self, question: str, option: str, given: Sequence[str], guess: tuple[str, ...], *, none: bool = False
    ) -> tuple[str, ...]:
        """The names of several columns."""
        names: Sequence[str] = given or guess
        if not given and self.asked:
            text = self._prompt(
                f"{question} With commas between. ({option})", ", ".join(guess) or (NOTHING if none else None)
            )
            names = [] if none and text == NOTHING else [part.strip() for part in text.split(",") if part.strip()]
        return tuple(str(self._known(name, option)) for name in dict.fromkeys(names))

    def span(self, question: str, option: str, given: str | None, guess: str | None, *, why: str = "") -> str:
        """A span of time; an empty one given means that none is needed."""
        answer = given
        if answer is None and self.asked:
            answer = self._prompt(f"{question} ({option})", guess or "1 day")
        answer = guess if answer is None else answer or "0 days"
        if answer is None:
            raise UsageError(f"{why} how long that takes with {option} SPAN, such as {option} '7 days'")
        parse_span(answer)
        return answer

    def _known(self, name: str, option: str, *, moment: bool = False) -> str:
        if name in self.sample.left_out:
            raise UsageError(f"{option} {name}: the column cannot be used: {self.sample.left_out[name]}")
        if name not in self.sample.columns:
            raise NotFoundError("column", name, self.sample.columns)
        if moment and not self.sample.columns[name].moment:
            raise UsageError(
                f"{option} {name}: the column holds {self.sample.columns[name].dtype}, expected timestamps"
            )
        return name

    @staticmethod
    def _prompt(question: str, default: str | None) -> str:
        return str(click.prompt(question, default=default, err=True)).strip()


def _columns(sample: SampleRows) -> str:
    named = ", ".join(f"{c.name} {c.dtype}" for c in sample.columns.values())
    return f"the file has the columns {named}" if named else "the file has no column that a table can hold"


def _write(folder: Path, outline: RepoOutline, sample: SampleRows) -> list[str]:
    texts = files(outline)
    for name, text in texts.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    (folder / "tests").mkdir(exist_ok=True)
    with replacing(folder / "tests" / "rows.parquet") as unfinished:
        _test_rows(outline, sample).write_parquet(unfinished)
    return sorted([*texts, "tests/rows.parquet"])


def _test_rows(outline: RepoOutline, sample: SampleRows) -> pl.DataFrame:
    """The first rows of the keys that most rows have, so that there is something to count."""
    needed = [outline.id, outline.event_time, outline.known_at, outline.label_time, *outline.keys]
    present = sample.frame.drop_nulls([name for name in needed if name])
    key = outline.keys[0]
    often = present[key].value_counts(sort=True)[key].head(TEST_KEYS)
    return (
        present.filter(present[key].is_in(often.implode()))
        .sort(outline.event_time, maintain_order=True)
        .head(TEST_ROWS)
    )


def _steps(folder: Path, outline: RepoOutline, file: Path) -> list[str]:
    """What to type next."""
    learn = [f"asof ingest {outline.labels} {_quoted(file)}", f"asof train {outline.name}"] if outline.label else []
    serve = [f"asof build {outline.name}", f"asof serve {outline.name}"] if outline.label else []
    return [
        f"export ASOF_REPO={_quoted(folder)}", "asof apply", f"asof ingest {outline.table} {_quoted(file)}", *learn, "asof materialize", *serve,
    ]  # fmt: skip


def _quoted(path: Path) -> str:
    return shlex.quote(os.fspath(path))


def _told(folder: Path, outline: RepoOutline, sample: SampleRows, written: list[str], steps: list[str]) -> str:
    rows = [
        ("rows are identified by", outline.id or "nothing: rows that are ingested twice count twice"),
        ("entities", ", ".join(outline.keys)),
        ("a row happens at", outline.event_time),
        ("and is known at", outline.known_at or f"{outline.event_time} + {outline.delay}"),
        ("known with the event", ", ".join(outline.numbers) or "nothing but the keys"),
    ]
    if outline.label:
        rows += [
            ("a model predicts", outline.label),
            ("its label is known at", outline.label_time or f"{outline.event_time} + {outline.label_delay}"),
            ("known with the label", ", ".join((outline.label, *outline.later))),
        ]
    left = [f"left out: {name}: {why}" for name, why in sample.left_out.items()]
    return "\n".join(
        [
            table(("what", "columns"), rows), *left, "", f"wrote {counted(len(written), 'file')} into {folder}: {', '.join(written)}",
            "look through definitions.py, then:", *(f"  {step}" for step in steps),
        ]
    )  # fmt: skip
