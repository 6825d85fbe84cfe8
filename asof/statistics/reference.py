"""The reference of a model: what its columns looked like at training, as the bundle's ``reference.json`` keeps it.

Training writes it (:func:`reference`), and monitoring compares what serving saw with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asof.contract import Contract
from asof.statistics import design_effect, histograms


def reference(
    contract: Contract,
    features: Mapping[str, histograms.Values],
    outputs: Mapping[str, histograms.Values],
    keys: Mapping[str, histograms.Values] | None = None,
) -> dict[str, Any]:
    """The content of a bundle's ``reference.json``.

    Args:
        contract: The contract; its types decide how a feature is counted.
        features: Every feature of the contract; n values each.
        outputs: Column of the prediction log -> what the model gave for rows that it was not fitted on, because outputs for fitted
            rows are overconfident. Any number of values.
        keys: Entity key -> the n keys of the rows, from which design effects are measured (:mod:`asof.statistics.design_effect`);
            without them monitoring uses the design effects that it measures in serving.

    Returns:
        ``{"features": histograms, "score": histograms of the outputs, "design_effects": {feature: see
        asof.statistics.design_effect.ColumnEffects}, "keys": {key: number of distinct ones}}``.
    """
    columns = {name: features[name] for name in contract.feature_names}
    frozen = histograms.build(columns, histograms.kinds(contract))
    for feature in contract.features:
        frozen["columns"][feature.name]["dtype"] = feature.dtype  # labels show moments and booleans as such
    coded = {name: design_effect.dense(design_effect.hashes(key)) for name, key in (keys or {}).items()}
    found = design_effect.column_effects(frozen, histograms.codes(frozen, columns), coded) if coded else {}
    return {
        "features": frozen,
        "score": histograms.build(outputs, dict.fromkeys(outputs, "numeric")),
        "design_effects": {name: one.to_list() for name, one in found.items()},
        "keys": {name: int(code.max()) + 1 if len(code) else 0 for name, code in coded.items()},
    }


def trained_effects(
    written: Mapping[str, Any], column: str, otherwise: design_effect.ColumnEffects
) -> design_effect.ColumnEffects:
    """The design effects of a column of the log as measured at training; ``otherwise`` where training did not measure them."""
    listed = (
        written.get("design_effects", {}).get(column.removeprefix("feature."))
        if column.startswith("feature.")
        else None
    )
    return design_effect.ColumnEffects.from_list(listed) if listed else otherwise
