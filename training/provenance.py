"""The provenance of a bundle: the hash of the locked packages and the modules of the on-demand functions."""

from __future__ import annotations

import ast
import hashlib
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from asof.contract import Contract

LOCKS = ("requirements.lock", "uv.lock", "poetry.lock", "pylock.toml")
"""Names of lock files, in the order in which they are searched in the feature repo and the folders above it."""


def lock_hash(folder: Path) -> tuple[str, str]:
    """SHA-256 of the nearest lock file and its name; where there is none, of the installed packages and their versions."""
    for above in (folder, *folder.parents):
        for name in LOCKS:
            if (above / name).is_file():
                return hashlib.sha256((above / name).read_bytes()).hexdigest(), name
    installed = sorted({f"{d.metadata['Name']}=={d.version}".lower() for d in metadata.distributions()})
    return hashlib.sha256("\n".join(installed).encode()).hexdigest(), "installed packages"


def copy_code(contract: Contract, repo: Path, target: Path) -> list[str]:
    """Copy the modules of ``repo`` that the on-demand functions need into ``target``, packages kept.

    What a module imports from the repo is copied with it; modules from elsewhere must be installed where the model is served.

    Returns:
        The copied files, relative to ``target``, sorted.
    """
    todo = [o.function.partition(":")[0] for o in contract.on_demand]
    copied: dict[Path, None] = {}
    while todo:
        for file in _files(repo, todo.pop()):
            if file not in copied:
                copied[file] = None
                todo += _imported(repo / file)
    target.mkdir(parents=True, exist_ok=True)
    for file in copied:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repo / file, target / file)
    return sorted(f.as_posix() for f in copied)


def _files(repo: Path, module: str) -> Iterator[Path]:
    """The files of ``repo`` that importing ``module`` runs: its own and its packages'."""
    parts = module.split(".")
    packages = [Path(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    for file in (*packages, Path(*parts).with_suffix(".py")):
        if (repo / file).is_file():
            yield file


def _imported(file: Path) -> Iterator[str]:
    """Absolute names of modules that ``file`` may import; a name imported from a package may be a module of it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
