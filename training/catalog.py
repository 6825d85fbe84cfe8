"""Finds model declarations: modules of ``training.models``, Python files of ``<repo>/models/``, and of a given folder.

A later place takes precedence, so that a repo can replace a model of the project.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from asof.errors import AsofError, NotFoundError, SettingsError
from training.model import Model

OWN = Path(__file__).parent / "models"


def find(name: str, repo: Path, extra: Path | None = None) -> Model:
    """The model called ``name``.

    Args:
        name: Name of the model.
        repo: Feature repo.
        extra: A folder of declarations that takes precedence.

    Raises:
        NotFoundError: No model of this name is declared.
        SettingsError: A file cannot be read, or declares a model wrongly.
    """
    known = declared(repo, extra)
    if name not in known:
        raise NotFoundError("model", name, known)
    return known[name]


def declared(repo: Path, extra: Path | None = None) -> dict[str, Model]:
    """All declared models by name; see :func:`find`.

    Raises:
        SettingsError: A file cannot be read, declares a model wrongly, or two files of a folder declare the same name.
    """
    if extra is not None and not extra.is_dir():
        raise SettingsError(f"{extra} is no folder; --models names one with Python files that declare models")
    found: dict[str, Model] = {}
    for folder in (OWN, repo / "models", extra):
        found.update(_folder(folder) if folder is not None else {})
    return found


def _folder(folder: Path) -> dict[str, Model]:
    found: dict[str, Model] = {}
    for file in sorted(folder.glob("*.py")) if folder.is_dir() else ():
        for model in _models(_load(file)):
            if model.name in found and found[model.name] != model:
                raise SettingsError(
                    f"{file} declares a model named {model.name!r} that another file of {folder} declares too"
                )
            found[model.name] = model
    return found


def _models(module: ModuleType) -> Iterator[Model]:
    return (value for value in vars(module).values() if isinstance(value, Model))


def _load(file: Path) -> ModuleType:
    """The module in ``file``, executed under a name that no import uses."""
    spec = importlib.util.spec_from_file_location(f"_declared_{file.parent.name}_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except AsofError as error:
        raise SettingsError(f"{file}: {error}") from error
    except Exception as error:
        raise SettingsError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[spec.name]
    return module
