"""Runs docs/notebook.ipynb and stores what it printed in it: ``python docs/execute_notebook.py``."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).resolve().parent / "notebook.ipynb"
FOLDER = "my répo & co"


def executed() -> NotebookNode:
    """The notebook, run in an empty folder with the asof of this Python; its outputs name no path of this machine.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer).resolve() / FOLDER
        folder.mkdir()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        given = {"PATH": path, "ASOF_REPO": "", "IPYTHONDIR": str(Path(outer) / "ipython")}
        with patch.dict(os.environ, given):
            del os.environ["ASOF_REPO"]
            NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
        for cell in notebook.cells:
            _clean(cell, f"{folder}/")
    notebook.metadata = {"language_info": {"name": "python"}, "kernelspec": notebook.metadata["kernelspec"]}
    return notebook


def _clean(cell: NotebookNode, folder: str) -> None:
    """Remove times of execution, and the folder's path where it stands."""
    cell.metadata.pop("execution", None)
    for output in cell.get("outputs", []):
        for holder in (output, output.get("data", {})):
            for key, value in holder.items():
                if isinstance(value, str):
                    holder[key] = value.replace(folder, "").replace(folder.replace("&", "&amp;"), "")


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
