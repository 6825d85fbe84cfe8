"""Importing Feast with deferred checks prepares none of them; the first definition of each kind does, with Feast's own errors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MISTAKES = """
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, StreamFeatureView
for make in (
    lambda: Entity(name=1),
    lambda: Entity(name='e', join_keys='k'),
    lambda: Field(name='f', dtype=4),
    lambda: FileSource(path=1),
    lambda: PushSource(name='p', batch_source='s'),
    lambda: FeatureService(name='s', features=7),
    lambda: FeatureView(name='v', source=FileSource(path='x'), entities='e'),
    lambda: StreamFeatureView(name='v', source=3),
):
    try:
        make()
    except Exception as error:
        print(type(error).__name__, error)
"""


def run(code: str) -> str:
    """What a new process prints that runs ``code``."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_feast_instruments_only_what_it_calls() -> None:
    """With deferred checks, importing Feast instruments the constructors of its own dummy entity alone; typeguard is afterwards as it was."""
    counted = (
        "import typeguard._decorators as d; count = []; real = d.instrument\n"
        "d.instrument = lambda f: (count.append(f), real(f))[1]\n"
        "import typeguard; before = typeguard.typechecked\n{first}import feast\n"
        "assert typeguard.typechecked is before\nprint(len(count))"
    )

    assert int(run(counted.format(first="from asof.feast.type_checks import defer; defer(); "))) == 2
    assert int(run(counted.format(first=""))) > 100


def test_mistakes_in_definitions_have_feasts_own_errors() -> None:
    """A wrong argument of a definition fails with the same error as without asof."""
    assert run("from asof.feast.type_checks import defer; defer()" + MISTAKES) == run(MISTAKES)


def test_a_process_with_feast_loaded_keeps_its_checks() -> None:
    """Where Feast was imported first, nothing is changed and nothing waits for another import."""
    said = run(
        "import feast, sys; made = feast.Entity.__init__; from asof.feast.type_checks import defer; defer()\n"
        "print(feast.Entity.__init__ is made, any('Deferred' in repr(f) for f in sys.meta_path))"
    )
    assert said.split() == ["True", "False"]


@pytest.mark.parametrize("name", ["Entity", "FeatureView", "FeatureService", "FileSource", "StreamFeatureView"])
def test_constructors_keep_their_signatures(name: str) -> None:
    """Editors and notebooks show the parameters that Feast documents."""
    code = f"import inspect, feast; print(list(inspect.signature(feast.{name}).parameters))"
    assert run("from asof.feast.type_checks import defer; defer(); " + code) == run(code)
