"""The command line in real processes: exit codes, one-line errors, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from asof import cli as roof
from asof.errors import AsofError, CheckFailedError, SettingsError


def _asof(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asof", *arguments], cwd=cwd, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def _main(monkeypatch: pytest.MonkeyPatch, error: BaseException, *arguments: str) -> int:
    """Exit code of a command line whose only verb, ``tables``, raises ``error``."""

    @click.command()
    def tables() -> None:
        raise error

    monkeypatch.setattr(roof.LazyGroup, "get_command", lambda *_: roof._with_json(tables))
    monkeypatch.setattr(sys, "argv", ["asof", "tables", *arguments])
    with pytest.raises(SystemExit) as stop:
        roof.main()
    return int(stop.value.code or 0)


def test_help_lists_every_verb(tmp_path: Path) -> None:
    """``asof --help`` names every verb and works outside any feature repo."""
    answer = _asof("--help", cwd=tmp_path)

    assert answer.returncode == 0
    assert all(f"  {verb} " in answer.stdout for verb in roof.COMMANDS)


def test_version_is_printed(tmp_path: Path) -> None:
    """``asof --version`` prints name and version."""
    from asof import __version__

    assert _asof("--version", cwd=tmp_path).stdout == f"asof, version {__version__}\n"


def test_mistyped_verb_names_the_closest(tmp_path: Path) -> None:
    """A verb that does not exist is wrong use: exit code 2 and one line with the verb that was probably meant."""
    answer = _asof("ingets", cwd=tmp_path)

    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("asof: no command named 'ingets'; did you mean 'ingest'?")
    assert answer.stderr.count("\n") == 1


def test_missing_repo_is_wrong_use(tmp_path: Path) -> None:
    """Outside a feature repo a verb says where it looked and how to name one."""
    answer = _asof("tables", cwd=tmp_path)

    assert answer.returncode == 2
    assert "no feature_store.yaml in" in answer.stderr
    assert "--repo PATH" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_unknown_option_is_wrong_use(tmp_path: Path) -> None:
    """An option that does not exist ends with exit code 2 and one line."""
    answer = _asof("tables", "--colour", cwd=tmp_path)

    assert answer.returncode == 2
    assert "--colour" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_json_errors_are_json(tmp_path: Path) -> None:
    """With ``--json`` an error is a JSON document on standard output as well as a line on standard error."""
    answer = _asof("tables", "--json", cwd=tmp_path)
    payload = json.loads(answer.stdout)

    assert payload["exit_code"] == answer.returncode == 2
    assert answer.stderr == f"asof: {payload['error']}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckFailedError("it drifted"), 1),
        (SettingsError("no such key"), 2),
        (click.UsageError("no such option"), 2),
        (AsofError("it broke"), 3),
        (OSError(28, "No space left on device"), 3),
        (KeyError("column"), 3),
        (KeyboardInterrupt(), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_error_is_one_line(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a verb raises becomes one line on standard error and the exit code that fits."""
    assert _main(monkeypatch, error) == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip().startswith("asof: ")
    assert captured.err.strip().count("\n") == 0


def test_messages_of_several_lines_are_joined(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message of a library that spans lines is still one line."""
    _main(monkeypatch, ValueError("first\n   second\n"))

    assert "ValueError: first second" in capsys.readouterr().err


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``ASOF_DEBUG=1`` an unexpected error arrives as it was raised."""
    monkeypatch.setenv("ASOF_DEBUG", "1")

    with pytest.raises(KeyError, match="column"):
        _main_raising(monkeypatch)


def _main_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def tables() -> None:
        raise KeyError("column")

    monkeypatch.setattr(roof.LazyGroup, "get_command", lambda *_: tables)
    monkeypatch.setattr(sys, "argv", ["asof", "tables"])
    roof.main()


def test_exit_codes_of_verbs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that ends with ``ctx.exit(1)`` ends the process with 1."""

    @click.command()
    @click.pass_context
    def tables(ctx: click.Context) -> None:
        ctx.exit(1)

    monkeypatch.setattr(roof.LazyGroup, "get_command", lambda *_: tables)
    monkeypatch.setattr(sys, "argv", ["asof", "tables"])
    with pytest.raises(SystemExit) as stop:
        roof.main()

    assert stop.value.code == 1


def test_json_is_accepted_before_and_behind_a_verb() -> None:
    """``asof --json VERB`` and ``asof VERB --json`` mean the same."""
    seen: list[bool] = []

    @click.command()
    @click.pass_context
    def verb(ctx: click.Context) -> None:
        seen.append(ctx.find_root().obj["json"])

    group = click.Group("asof", callback=roof.cli.callback, params=roof.cli.params)
    group.add_command(roof._with_json(verb))
    for arguments in (["--json", "verb"], ["verb", "--json"], ["verb"]):
        CliRunner().invoke(group, arguments, catch_exceptions=False)

    assert seen == [True, True, False]


def test_help_is_cheap() -> None:
    """``asof --help``, which imports every verb's module, imports none of the heavy libraries."""
    heavy = {"feast", "pandas", "whylogs", "bentoml", "lightgbm", "duckdb", "sklearn", "scipy", "deltalake"}
    code = (
        "import sys, importlib; from asof.cli import COMMANDS; "
        "[importlib.import_module(t.partition(':')[0]) for t in COMMANDS.values()]; print(*{m.split('.')[0] for m in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout

    assert not heavy & set(loaded.split())


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that declare verbs: one that works, one that cannot be imported, one that is no command, two clashes."""
    verbs = {
        "first": "greet = greeting:greet\ningest = greeting:greet\n",
        "second": "greet = elsewhere:greet\nlost = no_such_module:verb\nodd = greeting:NAME\n",
    }
    for name, text in verbs.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{roof.PLUGINS}]\n{text}")
    (tmp_path / "greeting.py").write_text(
        "import click\nNAME = 'world'\n@click.command()\ndef greet():\n    'Greet the world.'\n    click.echo('hello')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(roof.__file__).parents[1])]))
    return tmp_path


def test_a_package_adds_a_verb(installed: Path) -> None:
    """An entry point in the group ``asof.commands`` is a verb, listed in the help, with ``--json`` as every verb."""
    answer, listed = _asof("greet", cwd=installed), _asof("--help", cwd=installed)

    assert (answer.returncode, answer.stdout) == (0, "hello\n")
    assert _asof("greet", "--json", cwd=installed).returncode == 0
    assert "  greet        Greet the world." in listed.stdout


@pytest.mark.parametrize(
    ("verb", "reason"),
    [
        ("lost", "(no_such_module:verb) cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("odd", "(greeting:NAME) cannot be loaded: TypeError: got str, expected a click command"),
    ],
)
def test_a_broken_plugin_names_itself(verb: str, reason: str, installed: Path) -> None:
    """A verb that cannot be loaded fails with one line that names its package; the help and the other verbs still work."""
    answer, listed = _asof(verb, "--any", "thing", cwd=installed), _asof("--help", cwd=installed)

    assert answer.returncode == 3
    assert answer.stderr == f"asof: the command {verb!r} of second {reason}; repair or uninstall second\n"
    assert listed.returncode == 0
    assert "Cannot be loaded from second" in listed.stdout


def test_built_in_verbs_win(installed: Path) -> None:
    """A package cannot replace a verb: the help names each verb that is ignored, and why."""
    listed = _asof("--help", cwd=installed)

    assert "asof: the command 'ingest' of first (greeting:greet) is ignored: 'ingest' is built in\n" in listed.stderr
    assert (
        "asof: the command 'greet' of second (elsewhere:greet) is ignored: 'greet' comes from first\n" in listed.stderr
    )
    assert "Add the rows of Parquet or CSV files" in _asof("ingest", "--help", cwd=installed).stdout


def test_built_in_verbs_look_for_no_plugins() -> None:
    """A built-in verb does not read the metadata of installed packages, which takes some milliseconds."""
    code = (
        "import sys; from asof import cli; sys.argv = ['asof', 'tables', '--help']; cli._declared = None\n"
        "try: cli.main()\nexcept SystemExit as stop: sys.exit(stop.code)"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60).returncode == 0


def test_the_repo_of_the_environment_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative ``ASOF_REPO`` holds for what a verb starts in another folder too, as BentoML does when it builds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASOF_REPO", "repo")
    monkeypatch.setattr(sys, "argv", ["asof", "tables", "--help"])
    with pytest.raises(SystemExit):
        roof.main()

    assert os.environ["ASOF_REPO"] == str(tmp_path / "repo")
