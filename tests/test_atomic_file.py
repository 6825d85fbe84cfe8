"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asof.atomic_file import replacing

WRITER = """
import sys, time
from pathlib import Path
from asof.atomic_file import replacing
with replacing(Path(sys.argv[1])) as work:
    work.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_file_replaces_the_old_one_when_it_is_complete(tmp_path: Path) -> None:
    """Until the block ends readers find the old content; afterwards the new one, and no temporary file."""
    path = tmp_path / "new" / "file"
    with replacing(path) as work:
        work.write_text("old")
    with replacing(path) as work:
        work.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    """After an error the file is as it was, and neither a temporary file nor a temporary folder is left."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as work:
        work.write_text(str(1 / 0))
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "folder") as work:
        (work / "file").write_text("its folder was not made")
    with pytest.raises(FileExistsError), replacing(tmp_path / "folder") as work:
        _twice(work)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _twice(folder: Path) -> None:
    folder.mkdir()
    folder.mkdir()


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    """A process that is killed while it writes changes nothing under the file's own name."""
    path = tmp_path / "file"
    path.write_text("old")
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"


def test_a_folder_appears_at_once(tmp_path: Path) -> None:
    """A folder is there with all of its files, or not at all."""
    with replacing(tmp_path / "folder") as work:
        work.mkdir()
        (work / "file").write_text("all")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "file").read_text() == "all"
