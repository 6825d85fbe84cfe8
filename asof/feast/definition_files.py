"""Imports the Python files of a feature repo and collects the Feast objects that they declare.

Feast imports every Python file below the repo that ``.feastignore`` does not name. Two kinds of file are left out whatever
``.feastignore`` says: those in asof's own folder ``data``, where models and services carry copies of Python files, and those in
``models`` that do not import Feast, which declare models. A file that cannot be imported is named, with the line.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from asof.contract import on_demand
from asof.errors import SettingsError
from asof.feast.calls import place_in
from asof.settings import RepoSettings

if TYPE_CHECKING:
    from feast.repo_contents import RepoContents

IMPORTS_FEAST = re.compile(r"^\s*(from|import)\s+feast\b", re.MULTILINE)


def parse(settings: RepoSettings) -> RepoContents:
    """The definitions in the repo's files, imported anew even if this process imported another version before.

    Call it :func:`inside` the repo, because Feast names modules by their path from the working directory.

    Raises:
        SettingsError: A file cannot be imported; the message names file and line.
    """
    from feast import repo_operations
    from feast.project import Project

    files = [f for f in repo_operations.get_repo_files(settings.path) if _may_define(f, settings)]
    modules = [repo_operations.py_path_to_module(file) for file in files]
    for module in modules:
        sys.modules.pop(module, None)
    importlib.invalidate_caches()
    on_demand.load.cache_clear()
    for file, module in zip(files, modules, strict=True):
        _import(file, module, settings.path)
    with patch.object(repo_operations, "get_repo_files", lambda _: files):
        contents = repo_operations.parse_repo(settings.path)
    if not contents.projects:
        contents.projects.append(Project(name=settings.project))
    return contents


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Run in ``folder``, with ``folder`` first on ``sys.path`` and without writing byte code."""
    before, searched, written = Path.cwd(), list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = searched
        os.chdir(before)
        sys.dont_write_bytecode = written


def _may_define(file: Path, settings: RepoSettings) -> bool:
    """Whether ``file`` may declare features."""
    if file.is_relative_to((settings.path / "models").resolve()):
        return IMPORTS_FEAST.search(file.read_text(encoding="utf-8", errors="replace")) is not None
    return not file.is_relative_to(settings.data.resolve())


def _import(file: Path, module: str, repo: Path) -> None:
    try:
        importlib.import_module(module)
    except SystemExit as error:
        raise SettingsError(
            f"reading the definitions: {place_in(error, repo) or file.relative_to(repo)} called exit({error.code!r}) "
            "while it was imported; if the file is a script that declares no features, name it in .feastignore"
        ) from error
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise SettingsError(
            f"reading the definitions: {place_in(error, repo) or file.relative_to(repo)}: {type(error).__name__}: {text}"
        ) from error
