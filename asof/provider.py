"""The path that ``feature_store.yaml`` names: ``provider: asof.provider.AsofProvider``. The code is in :mod:`asof.feast.provider`."""

from asof.feast.provider import AsofProvider

__all__ = ["AsofProvider"]
