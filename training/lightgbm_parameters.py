"""Checks the LightGBM parameters of a declaration: their names before the data is read, their values when LightGBM refuses one.

LightGBM itself ignores a parameter or a metric that does not exist, and a second spelling of a parameter that is already set.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from asof.errors import SettingsError
from asof.task import Multiclass, Quantiles, Ranking, Regression, Task
from asof.training.model import Model

REPEATABLE: dict[str, Any] = {
    "seed": 7, "num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip
"""Parameters of every fit; a declaration may choose another seed or more threads."""

DECLARED = {
    "objective": "Model(task=...)",
    "categorical_feature": "Model(categories=...)",
    "num_class": "Model(task=Multiclass(...))",
    "alpha": "Model(task=Quantiles(...))",
    "eval_at": "Model(task=Ranking(k=...))",
    "tweedie_variance_power": "Model(task=Regression(power=...))",
    "num_iterations": "Fit(rounds=...)",
    "early_stopping_round": "Fit(patience=...)",
}
"""Parameters that a declaration says elsewhere, and where."""

METRICS = frozenset(
    [
        "l1",
        "mean_absolute_error",
        "mae",
        "regression_l1",
        "l2",
        "mean_squared_error",
        "mse",
        "regression_l2",
        "regression",
        "rmse",
        "root_mean_squared_error",
        "l2_root",
        "quantile",
        "mape",
        "mean_absolute_percentage_error",
        "huber",
        "fair",
        "poisson",
        "gamma",
        "gamma_deviance",
        "tweedie",
        "ndcg",
        "lambdarank",
        "rank_xendcg",
        "xendcg",
        "xe_ndcg",
        "xe_ndcg_mart",
        "xendcg_mart",
        "map",
        "mean_average_precision",
        "auc",
        "average_precision",
        "binary_logloss",
        "binary",
        "binary_error",
        "auc_mu",
        "multi_logloss",
        "multiclass",
        "softmax",
        "multiclassova",
        "multiclass_ova",
        "ova",
        "ovr",
        "multi_error",
        "cross_entropy",
        "xentropy",
        "cross_entropy_lambda",
        "xentlambda",
        "kullback_leibler",
        "kldiv",
        "None",
        "na",
        "null",
        "custom",
    ]
)
"""What LightGBM's documentation lists as values of ``metric``."""

_OBJECTIVES = {"squared": "regression", "absolute": "regression_l1", "poisson": "poisson", "tweedie": "tweedie"}
"""Loss -> LightGBM's name for it."""

_LIMIT = re.compile(r"Check failed: \((\w+)\) ?(>=|<=|>|<|==|!=) ?\(([-\w.]+)\)")
_TYPE = re.compile(r"Parameter (\w+) should be of type (\w+)")


def parameters(model: Model) -> dict[str, Any]:
    """Every parameter of the fit of ``model`` but the objective, each under LightGBM's main name.

    Raises:
        SettingsError: A parameter does not exist, is given twice, or is declared elsewhere.
    """
    main = _main_names()
    found: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in model.fit.parameters.items():
        if name not in main:
            close = [
                *difflib.get_close_matches(name, sorted(set(main.values()))),
                *difflib.get_close_matches(name, main),
            ]
            hint = f"did you mean {close[0]!r}?" if close else "its documentation lists the parameters that exist"
            raise SettingsError(f"model {model.name!r}: LightGBM has no parameter {name!r}; {hint}")
        meant = main[name]
        if meant in DECLARED:
            what = name if name == meant else f"{name}, another name of {meant},"
            raise SettingsError(
                f"model {model.name!r}: got {what} among the parameters, expected it as {DECLARED[meant]}; leave it out there"
            )
        if meant in spelled:
            raise SettingsError(
                f"model {model.name!r}: the parameters {spelled[meant]!r} and {name!r} are the same; leave one of them out"
            )
        if meant == "metric":
            _check_metrics(model, name, value)
        found[meant], spelled[meant] = value, name
    return {**REPEATABLE, **found}


def _check_metrics(model: Model, name: str, value: Any) -> None:
    given = (
        value.split(",")
        if isinstance(value, str)
        else list(value)
        if isinstance(value, list | tuple | set)
        else [value]
    )
    for metric in given:
        if metric not in METRICS and metric not in ("", None):
            close = difflib.get_close_matches(str(metric), METRICS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "its documentation lists the metrics that exist"
            raise SettingsError(
                f"model {model.name!r}: got {name} = {value!r}, but LightGBM has no metric {metric!r}; {hint}"
            )


def objectives(task: Task) -> list[dict[str, Any]]:
    """The objective of each booster that the task needs, with its parameters."""
    if isinstance(task, Quantiles):
        return [{"objective": "quantile", "alpha": level} for level in task.levels]
    if isinstance(task, Ranking):
        return [{"objective": "lambdarank", "eval_at": [task.k]}]
    if isinstance(task, Multiclass):
        return [{"objective": "multiclass", "num_class": len(task.classes)}]
    if isinstance(task, Regression):
        power = {"tweedie_variance_power": task.power} if task.loss == "tweedie" else {}
        return [{"objective": _OBJECTIVES[task.loss], **power}]
    return [{"objective": "binary"}]


def refusal(model: Model, error: Exception) -> SettingsError:
    """The error for a value that LightGBM refuses: which parameter, its value and what LightGBM expects."""
    said = " ".join(str(error).split())
    main = _main_names()
    given = {main[name]: (name, value) for name, value in model.fit.parameters.items()}
    blamed = _blamed(given, said)
    if blamed is None:
        return SettingsError(f"model {model.name!r}: LightGBM says {said}")
    name, value = given[blamed]
    return SettingsError(f"model {model.name!r}: got {name} = {value!r}, expected {_expected(blamed, said)}")


def _blamed(given: Mapping[str, tuple[str, Any]], said: str) -> str | None:
    """The parameter that LightGBM's sentence is about: it says the name, or only the value."""
    words = set(re.findall(r"[\w.+-]+", said))
    named = [meant for meant in given if meant in words]
    valued = [meant for meant, (_, value) in given.items() if isinstance(value, str) and value in words]
    return next(iter([*named, *valued]), None)


def _expected(name: str, said: str) -> str:
    if limit := _LIMIT.search(said):
        return f"{name} {limit[2]} {limit[3]}"
    if kind := _TYPE.search(said):
        return {"int": "a whole number", "double": "a number"}.get(kind[2], kind[2])
    if said.startswith("Unknown token"):
        return "a number"
    return f"a value that LightGBM accepts; it says {said.partition(' at /')[0]!r}"


@cache
def _main_names() -> dict[str, str]:
    """Every name of every parameter of LightGBM -> the parameter's main name."""
    from lightgbm.basic import _ConfigAliases

    aliases: Mapping[str, list[str]] = _ConfigAliases._get_all_param_aliases()  # noqa: SLF001 - LightGBM lists them nowhere else
    return {name: main for main, names in aliases.items() for name in (main, *names)}
