"""Calls into Feast: its output is suppressed, and its exceptions become one line that says what to do."""

from __future__ import annotations

import io
import traceback
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click

from asof.console import on_terminal
from asof.errors import AsofError, SettingsError, SourceError

REPO_FAULTS = (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, KeyError)
"""Exceptions that a mistake in a definition raises."""


@contextmanager
def feast_call(doing: str, *, repo: Path | None = None) -> Iterator[None]:
    """Run calls into Feast.

    Args:
        doing: The current action, for the message ("reading the definitions").
        repo: The feature repo; an exception that comes out of one of its files names file and line.

    Raises:
        SettingsError: Feast refuses a definition, or a file of the repo cannot be imported.
        SourceError: A file that a definition names cannot be read.
        AsofError: Something else failed.
    """
    import feast.repo_operations  # noqa: F401  # sets warning filters of its own when it is imported

    silent: AbstractContextManager[Any] = (
        nullcontext() if on_terminal() else redirect_stderr(io.StringIO())
    )  # progress bars are for people
    said = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(said), silent:
        warnings.simplefilter("ignore")
        try:
            yield
        except (AsofError, click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except SystemExit as error:
            why = (
                " ".join(said.getvalue().split())[-400:] or "it gave no reason; run `feast apply` in the repo to see it"
            )
            raise SettingsError(f"{doing}: Feast stopped: {why}") from error
        except Exception as error:
            raise _translated(error, doing, repo) from error


def _translated(error: Exception, doing: str, repo: Path | None) -> AsofError:
    text = " ".join(str(error).split())[:400] or "no message"
    place = place_in(error, repo) if repo is not None else ""
    if place:
        return SettingsError(f"{doing}: {place}: {type(error).__name__}: {text}")
    if type(error).__module__.startswith("feast.") or isinstance(error, REPO_FAULTS):
        return SettingsError(f"{doing}: {text} ({type(error).__name__})")
    if isinstance(error, OSError):
        return SourceError(f"{doing}: {text}")
    return AsofError(f"{doing}: {type(error).__name__}: {text}")


def place_in(error: BaseException, repo: Path) -> str:
    """The innermost line of the repo's own files in the traceback, as ``file:line``; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(repo):
        return f"{Path(error.filename).relative_to(repo)}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(repo)]
    own = [f for f in frames if ".venv" not in Path(f.filename).parts]
    return f"{Path(own[-1].filename).relative_to(repo)}:{own[-1].lineno}" if own else ""
