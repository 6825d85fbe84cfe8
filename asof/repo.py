"""An opened feature repo: Feast's ``FeatureStore`` and asof's contracts side by side.

``Repo.open`` is cheap; Feast is imported when something needs the registry. Only this module puts the repo on ``sys.path``
(Feast's CLI does, its SDK does not), so that on-demand functions can be imported by name.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from asof.contract.on_demand import add_path
from asof.errors import NotFoundError
from asof.settings import RepoSettings

if TYPE_CHECKING:
    from feast import FeatureStore

    from asof.contract import Contract, View


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
        """Feast's own view of the repo."""
        add_path(str(self.path))
        from feast import FeatureStore

        # Feast says so at every use; what asof computes from these views is tested against the law, not left to Feast.
        warnings.filterwarnings("ignore", "Stream feature views are experimental", RuntimeWarning)
        return FeatureStore(repo_path=str(self.path))

    def services(self) -> list[str]:
        """Names of the applied feature services, sorted."""
        return sorted(s.name for s in self.store.list_feature_services())

    def views(self) -> dict[str, View]:
        """All applied stored views by name."""
        from asof.feast.compiler import compile_view

        listed = [*self.store.list_feature_views(), *self.store.list_stream_feature_views()]
        return {v.name: compile_view(v) for v in listed}

    def contract(self, service: str) -> Contract:
        """The contract of an applied feature service.

        Raises:
            NotFoundError: There is no such service; run ``asof apply`` after declaring one.
        """
        from asof.contract.cache import recall, remember

        add_path(str(self.path))
        found = recall(self.settings, service)
        if found is None:
            found = self._compiled(service)
            remember(self.settings, found)
        return found

    def _compiled(self, service: str) -> Contract:
        from asof.feast.calls import feast_call
        from asof.feast.compiler import compile_service

        with feast_call("reading the registry", repo=self.path):
            declared = {s.name: s for s in self.store.list_feature_services()}
            if service not in declared:
                raise NotFoundError("feature service", service, declared)
            listed: list[Any] = [
                *self.store.list_feature_views(), *self.store.list_stream_feature_views(), *self.store.list_on_demand_feature_views(),
            ]  # fmt: skip
            return compile_service(declared[service], listed, self.settings.project, self.path)
