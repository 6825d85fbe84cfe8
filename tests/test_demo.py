"""The workspace of a demo: it deletes only its own files, stops what it started, and reports each step."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from asof import cli as roof
from asof.commands.demo_workspace import MARKER, DemoConfig, DemoWorkspace, prepare, service
from asof.errors import AsofError, SettingsError, UsageError

SERVER = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A feature repo with definitions, data and something hidden."""
    repo = tmp_path / "source"
    (repo / "data" / "tables").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text("project: tiny\n")
    (repo / "views.py").write_text("")
    (repo / ".feastignore").write_text("data\n")
    (repo / "data" / "registry.db").write_text("")
    return repo


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_demo_copies_definitions_and_no_data(tmp_path: Path, source: Path) -> None:
    """The demo's feature repo has the definitions and what Feast must ignore, and none of the data."""
    workspace, again = prepare(tmp_path / "demo", source)

    assert not again
    assert sorted(p.name for p in workspace.repo.iterdir()) == [".feastignore", "feature_store.yaml", "views.py"]


def test_demo_refuses_a_folder_that_is_not_its_own(tmp_path: Path, source: Path) -> None:
    """A folder with files of somebody else is left as it is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    with pytest.raises(UsageError, match="holds files and is not the folder of a demo"):
        prepare(tmp_path / "mine", source)

    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_demo_starts_clean_when_it_runs_again(tmp_path: Path, source: Path) -> None:
    """A second demo in the same folder clears the first one's files away and says so."""
    first, _ = prepare(tmp_path / "demo", source)
    (first.repo / "data").mkdir()
    (first.folder / "old.parquet").write_text("")

    second, again = prepare(tmp_path / "demo", source)

    assert again
    assert sorted(p.name for p in second.folder.iterdir()) == [MARKER, "feature_repo"]
    assert not (second.repo / "data").exists()


def test_service_runs_while_the_block_does(tmp_path: Path) -> None:
    """The service is ready inside the block and gone behind it."""
    script = tmp_path / "server.py"
    script.write_text("import os; open('pid', 'w').write(str(os.getpid()))\n" + SERVER)
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        with service([sys.executable, str(script), "{port}"], tmp_path / "log") as address:
            pid = int((tmp_path / "pid").read_text())
            assert address.startswith("http://127.0.0.1:")
    finally:
        os.chdir(here)

    assert _gone(pid)


@pytest.mark.parametrize("error", [AsofError("it broke"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_service_is_stopped_after_errors(tmp_path: Path, error: BaseException) -> None:
    """Whatever ends the block, also Ctrl-C, ends the service and its children."""
    script = tmp_path / "server.py"
    child = tmp_path / "child"
    script.write_text(
        "import subprocess, sys; p = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(child)!r}, 'w').write(str(p.pid))\n" + SERVER
    )
    with pytest.raises(type(error)), service([sys.executable, str(script), "{port}"], tmp_path / "log"):
        raise error

    assert _gone(int(child.read_text()))


def test_service_that_dies_is_quoted(tmp_path: Path) -> None:
    """A service that ends before it is ready is an error with its last line of output."""
    with (
        pytest.raises(AsofError, match=r"ended with code 7; it said: no port left"),
        service([sys.executable, "-c", "print('no port left'); raise SystemExit(7)"], tmp_path / "log"),
    ):
        pass

    assert "no port left" in (tmp_path / "log").read_text()


def test_failed_verb_stops_the_demo(tmp_path: Path) -> None:
    """A verb that fails stops the demo with the verb's own message, which names no demo: examples run verbs, too."""
    (tmp_path / "feature_repo").mkdir()

    with pytest.raises(AsofError, match=r"^`asof tables` failed \(exit code 2\): no feature_store.yaml"):
        DemoWorkspace(tmp_path, total=1).asof("tables")


def test_example_has_a_demo_file(root: Path) -> None:
    """The example's demo.yaml names its model, its tables and how to make data for them."""
    script = DemoConfig.load(root / "feature_repo")

    assert (script.model, script.tables, script.test_start) == (
        "fraud",
        ("transactions", "fraud_reports"),
        "2018-08-08",
    )


def test_a_demo_file_with_unknown_keys_is_refused(tmp_path: Path) -> None:
    """A demo.yaml that is not what is expected is named, with the keys that it should have."""
    (tmp_path / "demo.yaml").write_text("model: m\ntables: [t]\ntest_start: 2020-01-01\ncolour: red\n")

    with pytest.raises(SettingsError, match=r"demo.yaml: expected the keys model, tables, .*colour"):
        DemoConfig.load(tmp_path)


def test_repo_without_a_demo_file_has_no_demo(tmp_path: Path) -> None:
    """The error for a feature repo without demo.yaml says so."""
    with pytest.raises(SettingsError, match=r"has no demo.yaml"):
        DemoConfig.load(tmp_path)


def test_missing_data_file_is_wrong_use(tmp_path: Path, root: Path) -> None:
    """A data file that is not there is named before anything is written."""
    arguments = [
        "--repo",
        str(root / "feature_repo"),
        "demo",
        "--data",
        str(tmp_path / "no.parquet"),
        "--into",
        str(tmp_path / "demo"),
    ]
    done = CliRunner().invoke(roof.cli, arguments)

    assert isinstance(done.exception, UsageError)
    assert "there is no file" in str(done.exception)
    assert not (tmp_path / "demo").exists()


def test_table_has_every_step_and_the_total(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The final table names each step, what happened and its seconds; what was not expected stands out."""
    workspace = DemoWorkspace(tmp_path, total=2)
    with workspace.step("first") as step:
        step.happened = "went well"
    with workspace.step("second") as step:
        step.happened, step.fine = "3 mismatches", False
    lines = workspace.table().splitlines()

    assert [line.split("  ")[0] for line in lines] == ["step", "------", "first", "second", "total"]
    assert "UNEXPECTED: 3 mismatches" in lines[3]
    assert "[ 1/2] first" in capsys.readouterr().err
