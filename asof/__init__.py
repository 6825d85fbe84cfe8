"""asof: Feast feature definitions as the one contract between training, serving and monitoring."""

from __future__ import annotations

from asof.version import __version__

TYPE_CHECKING = False  # importing typing would take ten times as long as everything else here
if TYPE_CHECKING:
    from pathlib import Path

    from asof.feature_repo import FeatureRepo

__all__ = ["__version__", "open"]


def open(path: str | Path | None = None, *, progress: bool = True) -> FeatureRepo:  # noqa: A001  `asof.open`
    """The feature repo at ``path``, whose methods are the verbs of the command line.

    Args:
        path: Its folder; by default ``$ASOF_REPO``, else ``.`` or ``./feature_repo``.
        progress: Whether work that takes longer than a second shows its progress.

    Raises:
        SettingsError: There is no usable ``feature_store.yaml``.
    """
    from asof.feature_repo import FeatureRepo

    return FeatureRepo.open(path, progress=progress)
