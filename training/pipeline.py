"""A training run, from a declaration to a bundle: tables, split, features, fit, metrics, leak check, thresholds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from asof.bundle import Bundle
from asof.categories import coded
from asof.quantities import counted
from asof.training import baselines, leak, lightgbm_parameters, metrics
from asof.training import fit as fitting
from asof.training import split as splitting
from asof.training.dataset import Labelled, Tables, matrix, vocabularies
from asof.training.metrics import Scored
from asof.training.model import Decision, Model
from asof.training.publish import DecisionResult, Reference, Run, publish

if TYPE_CHECKING:
    from asof.repo import Repo

Say = Callable[[str], None]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """The data of a run.

    Attributes:
        tables: The tables, at fixed versions.
        labelled: The n labelled rows of all spans.
        features: Their features.
        spans: The spans.
        parts: The part of the split that each row is in.
    """

    tables: Tables
    labelled: Labelled
    features: pa.Table
    spans: splitting.Spans
    parts: splitting.SplitRows


def gather(
    repo: Repo, model: Model, given: splitting.GivenSpans | None = None, *, say: Say = lambda _: None
) -> Material:
    """The rows, labels and features of ``model``.

    Args:
        repo: The feature repo; its definitions are applied and its tables filled.
        model: The declaration.
        given: Bounds of spans that the command line fixes.
        say: Called with the name of each step, for progress.

    Raises:
        NotFoundError: The service or a table is not declared.
        SettingsError: The model's keys are not those of the service, or LightGBM has no such parameter.
        SourceError: A table is missing, empty or cannot be read.
        SchemaError: A table lacks a column, or labels are not 0 or 1.
        UsageError: The spans do not fit the rows.
    """
    lightgbm_parameters.parameters(model)
    say("reading definitions")
    return assemble(Tables.open(repo, model, repo.contract(model.service)), given, say=say)


def assemble(
    tables: Tables, given: splitting.GivenSpans | None = None, *, knowledge: bool = True, say: Say = lambda _: None
) -> Material:
    """As :func:`gather`, from open tables.

    Args:
        tables: The tables.
        given: Bounds of spans that are fixed.
        knowledge: False computes features as if every event were known at its event time: a deliberate leak, to measure its effect.
        say: Called with the name of each step, for progress.
    """
    model = tables.model
    say("reading labelled rows")
    spans = splitting.resolve(model, *tables.extent(), given)
    labelled = tables.labelled(spans.train_start, spans.test_end)
    known = model.split.leave_out_known
    entity = labelled.codes(known) if known else None
    parts = splitting.divide(spans, labelled.time, labelled.label, labelled.usable, entity)
    say(f"computing features of {counted(len(labelled), 'row')}")
    return Material(tables, labelled, tables.features(labelled.rows, knowledge=knowledge), spans, parts)


def learn(material: Material, *, say: Say = lambda _: None, started: float | None = None) -> tuple[Run, Reference]:
    """Fit the model, evaluate it and check it for leaks.

    Args:
        material: The result of :func:`gather`.
        say: Called with the name of each step, for progress.
        started: When the run began, on the monotonic clock.

    Raises:
        UsageError: A part of the split has rows of one label only.
        SettingsError: LightGBM refuses the parameters.
    """
    begun = time.monotonic() if started is None else started
    tables, labelled, parts = material.tables, material.labelled, material.parts
    model = tables.model
    words = vocabularies(model, tables.contract, material.features, pa.array(parts.train))
    names, values = matrix(tables.contract, material.features, {name: coded(known) for name, known in words.items()})
    say(f"fitting on {counted(int(parts.train.sum()), 'row')}")
    groups = labelled.groups
    rows = values[parts.train], labelled.label[parts.train], labelled.time[parts.train]
    fitted = fitting.fit(model, labelled.task, names, *rows, None if groups is None else groups[parts.train])
    say("evaluating")
    scored = _scored(material, fitted.predict(values[parts.test]))
    beside = _baselines(model, material, names, values)
    figures, judged = metrics.evaluate_beside(model.metrics, scored, beside, model.thresholds, model.unit)
    unseen = fitted.predict(values[parts.gap]) if parts.gap.any() else fitted.held_out_outputs
    say("looking for leaks")
    run = Run(
        model=model,
        contract=tables.contract,
        fitted=fitted,
        names=names,
        categories=words,
        figures=figures,
        baselines=judged,
        split=splitting.counts(material.spans, parts, labelled.label, labelled.task),
        decided=_decided(model.decision, fitted, labelled.label[parts.train], unseen, scored),
        leaks=tuple(_leaks(material, scored)),
        versions=tables.versions,
        digests=tables.digests,
        seconds=time.monotonic() - begun,
    )
    return run, _reference(material, unseen)


def _baselines(model: Model, material: Material, names: tuple[str, ...], values: Floats) -> dict[str, Floats]:
    """Baseline -> its outputs for the test rows."""
    parts, task = material.parts, material.labelled.task
    label = material.labelled.label[parts.train]
    places = [names.index(name) for name in model.categories]
    return {
        "constant": baselines.constant(task, label, int(parts.test.sum())),
        "linear": baselines.linear(task, values[parts.train], label, values[parts.test], places),
    }


def save(run: Run, reference: Reference, repo: Repo) -> Bundle:
    """The bundle of a run; see :func:`asof.training.publish.publish`."""
    repo.settings.hide_data_from_feast()
    return publish(run, reference, repo.path, repo.settings.models)


def _scored(material: Material, outputs: Floats) -> Scored:
    test, labelled, model = material.parts.test, material.labelled, material.tables.model
    keys = {k for k in (model.unit, *(m.key for m in model.metrics)) if k}
    entities = {key: np.unique(labelled.codes(key)[test], return_inverse=True)[1] for key in sorted(keys)}
    groups = labelled.groups
    dense = None if groups is None else np.unique(groups[test], return_inverse=True)[1]
    return Scored(labelled.task, labelled.label[test], outputs, labelled.time[test], entities, dense)


def _decided(
    declared: Decision | None, fitted: fitting.Fitted, label: Floats, unseen: Floats, scored: Scored
) -> DecisionResult | None:
    """The decision threshold, and what it does on the test rows; None for tasks without one."""
    if declared is None:
        return None
    held = label[fitted.held_out], fitted.task.score(fitted.held_out_outputs)
    threshold = fitting.decide(declared, *held, fitted.task.score(unseen))
    decided, positive = scored.score >= threshold, scored.label == 1
    hits = int((decided & positive).sum())
    how = declared.rule if declared.rule == "f1" else f"{declared.rule} {declared.value}"
    return DecisionResult(
        threshold, how, hits / max(1, int(decided.sum())), hits / max(1, int(positive.sum())), float(decided.mean())
    )


def _leaks(material: Material, scored: Scored) -> list[leak.Leak]:
    tables, labelled, features = material.tables, material.labelled, material.features
    size = min(len(labelled), tables.model.suspicion.recomputed)
    sample = np.sort(np.random.default_rng(0).choice(len(labelled), size, replace=False))
    judged = features.filter(pa.array(material.parts.test))
    return [
        *leak.label_delay(tables, labelled),
        *leak.law(tables, labelled, features, sample),
        *leak.suspicion(tables.model, tables.contract, scored, judged),
    ]


def _reference(material: Material, unseen: Floats) -> Reference:
    train = pa.array(material.parts.train)
    rows = material.labelled.rows.filter(train)
    return Reference(
        material.features.filter(train), unseen, {key: rows[key] for key in material.tables.model.rows.keys}
    )
