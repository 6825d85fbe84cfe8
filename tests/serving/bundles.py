"""A finished bundle of the machines contract, written as training writes bundles."""

from __future__ import annotations

from pathlib import Path

import lightgbm as lgb
import numpy as np

from asof import bundle
from asof.bundle import Bundle
from asof.contract import Contract
from tests.serving.contracts import FUNCTIONS

FEATURES = [
    "load_count_1d", "load_mean_1d", "load_max_7d", "crew", "open", "ratio", "hour",
]  # fmt: skip
ROWS = {
    "table": "readings", "event_time": "read_at", "id": "reading_id", "keys": ["machine_id", "site"],
    "label_table": "verdicts", "label": "broken", "label_time": "judged_at",
}  # fmt: skip


def train(columns: int, trees: int = 20) -> lgb.Booster:
    """A small booster over random features, some missing."""
    generator = np.random.default_rng(7)
    x = generator.normal(5.0, 3.0, (800, columns))
    y = (x[:, 0] + x[:, -2] > 10).astype(int)
    x[generator.random(x.shape) < 0.1] = np.nan
    options = {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": 3, "deterministic": True}
    return lgb.train(options, lgb.Dataset(x, y), num_boost_round=trees)


def write(
    models: Path,
    contract: Contract,
    module: str,
    *,
    model: str = "breakdown",
    version: str = "v1",
    event_time: bool = True,
) -> Bundle:
    """A bundle of a small model under ``contract``, whose functions live in ``module``."""
    with bundle.writing(models, model, version) as folder:
        train(len(FEATURES)).save_model(folder / "model.txt")
        (folder / "contract.json").write_text(contract.to_json())
        (folder / "code").mkdir()
        (folder / "code" / f"{module}.py").write_text(FUNCTIONS)
        metadata = {
            "model": model, "version": version, "service": contract.service, "fingerprint": contract.fingerprint,
            "features": FEATURES, "decision": {"threshold": 0.5, "how": "fixed"}, "rows": ROWS if event_time else {},
        }  # fmt: skip
        bundle.write_json(folder / "metadata.json", metadata)
    return Bundle.open(models / model / version)
