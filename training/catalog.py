"""Finds model declarations: in the Python files of ``<repo>/models/`` and of a folder that is given.

A file that cannot be executed hides none of the others: it is named when its model is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from asof.errors import AsofError, NotFoundError, SettingsError
from asof.training.model import Model


@dataclass
class Catalog:
    """What the files of one or two folders declare.

    Attributes:
        models: Model name -> declaration.
        unreadable: Why a file could not be read, one line each, with the file's path.
    """

    models: dict[str, Model] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def find(self, name: str) -> Model:
        """The model called ``name``.

        Raises:
            NotFoundError: No model of this name is declared.
            SettingsError: No model of this name is declared, and a file that might declare it cannot be read.
        """
        if name in self.models:
            return self.models[name]
        if self.unreadable:
            raise SettingsError(f"no file that can be read declares a model {name!r}; {'; '.join(self.unreadable)}")
        raise NotFoundError("model", name, self.models)


def declared(repo: Path, extra: Path | None = None) -> Catalog:
    """The models that ``<repo>/models/`` and ``extra`` declare; ``extra`` takes precedence.

    Raises:
        SettingsError: ``extra`` is no folder, or two files of a folder declare different models under one name.
    """
    if extra is not None and not extra.is_dir():
        raise SettingsError(f"{extra} is no folder; --models names one with Python files that declare models")
    found = Catalog()
    for folder in (repo / "models", extra):
        if folder is not None and folder.is_dir():
            found.models |= _folder(folder, found.unreadable)
    return found


def _folder(folder: Path, unreadable: list[str]) -> dict[str, Model]:
    found: dict[str, Model] = {}
    for file in sorted(folder.glob("*.py")):
        try:
            module = _load(file)
        except SettingsError as error:
            unreadable.append(str(error))
            continue
        for model in (value for value in vars(module).values() if isinstance(value, Model)):
            if found.setdefault(model.name, model) != model:
                raise SettingsError(
                    f"{file} declares a model named {model.name!r} that another file of {folder} declares too"
                )
    return found


def _load(file: Path) -> ModuleType:
    """The module in ``file``, executed under a name that no import uses."""
    spec = importlib.util.spec_from_file_location(f"_declared_{file.parent.name}_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        with _siblings(file.parent):
            spec.loader.exec_module(module)
    except AsofError as error:
        raise SettingsError(f"{file}: {error}") from error
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        raise SettingsError(f"{file} cannot be read: {type(error).__name__}: {text}") from error
    finally:
        del sys.modules[spec.name]
    return module


@contextmanager
def _siblings(folder: Path) -> Iterator[None]:
    """Files of ``folder`` can be imported by their names and as ``models.<name>``; afterwards none of them is left loaded."""
    searched, loaded = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(folder), str(folder.parent)]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # Before sys.path is restored, because the places of a package without __init__.py follow it.
        for name in set(sys.modules) - loaded:
            if _lies_in(sys.modules[name], folder.parent):
                del sys.modules[name]
        sys.path[:] = searched  # afterwards: the places of a folder without __init__.py follow sys.path


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(place and Path(place).is_relative_to(folder) for place in places)
