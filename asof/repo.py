"""An opened feature repo: its settings, Feast's feature store, and the contracts of its feature services.

``Repo.open`` is cheap; :mod:`asof.feast` is imported when the registry is needed. Opening the registry puts the repo on
``sys.path`` (Feast's command line does, its SDK does not), so that on-demand functions can be imported by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from asof.contract.cache import recall, remember
from asof.contract.on_demand import add_path
from asof.settings import RepoSettings

if TYPE_CHECKING:
    from asof.contract import Contract, View
    from asof.feast.registry import FeatureStore


@dataclass(frozen=True)
class Repo:
    """A feature repo on this machine."""

    settings: RepoSettings

    @classmethod
    def open(cls, path: str | Path | None = None) -> Self:
        """The repo at ``path``; without one, at ``$ASOF_REPO``, ``.`` or ``./feature_repo``.

        Raises:
            SettingsError: There is no usable ``feature_store.yaml``.
        """
        return cls(RepoSettings.load(path))

    @property
    def path(self) -> Path:
        """Absolute folder of the repo."""
        return self.settings.path

    @cached_property
    def store(self) -> FeatureStore:
        """Feast's feature store of the repo."""
        from asof.feast.registry import open_store

        return open_store(self.path)

    def services(self) -> list[str]:
        """Names of the applied feature services, sorted."""
        return sorted(s.name for s in self.store.list_feature_services())

    def views(self) -> dict[str, View]:
        """All applied stored views by name."""
        from asof.feast.registry import applied_views

        return applied_views(self.store)

    def contract(self, service: str) -> Contract:
        """The contract of an applied feature service; compiled contracts are cached (:mod:`asof.contract.cache`).

        Raises:
            NotFoundError: There is no such service; run ``asof apply`` after declaring one.
        """
        add_path(str(self.path))
        found = recall(self.settings, service)
        if found is None:
            from asof.feast.registry import applied_contract

            found = applied_contract(self.store, self.settings, service)
            remember(self.settings, found)
        return found
