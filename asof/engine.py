"""The path that ``feature_store.yaml`` names: ``batch_engine: {type: asof.engine.DuckDBComputeEngine}``.

The code is in :mod:`asof.feast.compute_engine`.
"""

from asof.feast.compute_engine import DuckDBComputeEngine

__all__ = ["DuckDBComputeEngine"]
