"""Imports Feast in a third of the time: argument types of its classes are checked from their first use on, not prepared at import.

Feast decorates its classes with typeguard's ``typechecked``, which parses and compiles a module again for each of its methods. That takes
three quarters of ``import feast``. While Feast is imported, :class:`DeferredChecks` has the decorator replace each constructor by one that
lets typeguard prepare itself when it is called for the first time. Definitions are checked as before, with the same errors; the other
methods of these classes are not checked. Only the command line does this, in its own processes: a program that imports asof keeps all of Feast's
checks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGE = "feast"


class DeferredChecks(MetaPathFinder):
    """Finds Feast once, and loads it with a decorator that prepares type checks later."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """The spec of Feast with a loader of our own; None for every other module."""
        if fullname != PACKAGE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Deferring(spec, spec.loader)
        return spec


class _Deferring(Loader):
    def __init__(self, spec: ModuleSpec, loader: Loader) -> None:
        self.spec, self.loader = spec, loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        import typeguard

        self.spec.loader = module.__loader__ = self.loader
        checked = typeguard.typechecked
        typeguard.typechecked = functools.partial(_deferred, checked)
        try:
            self.loader.exec_module(module)
        finally:
            typeguard.typechecked = checked


def _deferred(checked: Callable[..., Any], target: Any = None, **options: Any) -> Any:
    """What ``typechecked`` gives for ``target``: a class with a constructor that is prepared at its first call, else as typeguard does."""
    if not isinstance(target, type) or options:
        return checked(target, **options)
    original: Any = target.__dict__.get("__init__")
    if original is not None:

        @functools.wraps(original)
        def prepare(self: Any, *args: Any, **kwargs: Any) -> None:
            ready = checked(original)
            if target.__dict__.get("__init__") is prepare:
                target.__init__ = ready  # type: ignore[misc]
            ready(self, *args, **kwargs)

        target.__init__ = prepare  # type: ignore[misc]
    return target


def defer() -> None:
    """Let this process import Feast with deferred checks, if it has not imported it yet."""
    if PACKAGE not in sys.modules and not any(isinstance(finder, DeferredChecks) for finder in sys.meta_path):
        sys.meta_path.insert(0, DeferredChecks())
