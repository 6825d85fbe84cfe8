"""What applying the repo's definitions would change, and which trained models the change would break.

Changes of the registry come from Feast's own comparison and from comparing compiled views, because Feast's comparison leaves out
windows and tiling of stream views. For the models, each bundle's contract is compared with the declared one, feature by feature: a
model is broken only by a change of a value that it was trained on.

:func:`apply` runs Feast's apply, then registers the changed views that Feast left unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asof import bundle
from asof.contract import Contract, View
from asof.contract.cache import registry_file
from asof.contract.diff import changes, feature_changes, stored_changes, view_changes
from asof.errors import AsofError, CheckFailedError, SchemaError
from asof.feast import definition_files
from asof.feast.calls import feast_call
from asof.rendering import Rendered
from asof.repo import Repo
from asof.served import served_versions
from asof.settings import RepoSettings
from asof.tables.declarations import declarations
from asof.tables.definition_check import DefinitionFault, definition_faults

if TYPE_CHECKING:
    from feast.repo_contents import RepoContents

    from asof.tables.schema import TableDeclaration

Action = Literal["add", "change", "remove"]

UNREADABLE = "?"
"""Stands for the service of a bundle that cannot be read."""

_VIEW_KINDS = frozenset({"feature view", "stream feature view"})
_VIEW_WORDS = frozenset({"description", "tags", "owner", "org", "online", "offline", "version"})
"""Properties of a view that only Feast's comparison reports; for the others Feast also names fields that are equal."""


_SIGNS = {"add": "+", "change": "~", "remove": "-"}


@dataclass(frozen=True)
class RegistryChange:
    """One registry object that applying adds, changes or removes, with details."""

    action: Action
    kind: str
    name: str
    details: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The change for a terminal."""
        return [f"{_SIGNS[self.action]} {self.kind} {self.name}", *(f"    {line}" for line in self.details)]


@dataclass(frozen=True)
class BrokenModel:
    """A model that does not fit the declared features.

    Attributes:
        model: Name of the model.
        version: Version of its bundle.
        newest: Whether that is the newest version.
        service: The feature service that it was trained with.
        features: Feature -> what changed about it.
        served: How the version is known to be served; empty where it is not.
        breaks: View that it reads -> what would change about the stored values, if it is served and the view as registered still fits.
    """

    model: str
    version: str
    newest: bool
    service: str
    features: dict[str, tuple[str, ...]]
    served: str = ""
    breaks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def told_breaks(self) -> str:
        """:attr:`breaks` in words."""
        return ", ".join(f"view {view}: {', '.join(why)}" for view, why in self.breaks.items())

    def lines(self, *, applied: bool) -> list[str]:
        """What does not fit, for a terminal."""
        marks = [*(["newest"] if self.newest else []), *([self.served] if self.served else [])]
        marked = f" ({', '.join(marks)})" if marks else ""
        lines = [f"! model {self.model} {self.version}{marked} does not fit service {self.service}; train it again"]
        lines += [f"    {name}: {'; '.join(why)}" for name, why in self.features.items()]
        if self.breaks:
            told = "has changed" if applied else "would change, so that `asof apply` needs --force"
            lines.append(f"    it is served, and what it reads {told}: {self.told_breaks}")
        return lines


@dataclass(frozen=True, repr=False)
class ApplyPlan(Rendered):
    """What ``asof apply`` changes or would change.

    Attributes:
        changes: Objects of the registry.
        faults: Definitions that do not fit their tables; applying is refused while there is one.
        broken: Models that do not fit what is declared.
        models: Number of model versions checked.
        applied: Whether the changes were made.
    """

    changes: tuple[RegistryChange, ...]
    faults: tuple[DefinitionFault, ...]
    broken: tuple[BrokenModel, ...]
    models: int
    applied: bool = False

    def parts(self) -> Iterator[str]:
        """The changes, and what does not fit."""
        count, what = len(self.changes), "applied" if self.applied else "to apply"
        for change in self.changes:
            yield from change.lines()
        yield (
            f"{count} change{'s' if count != 1 else ''} {what}"
            if count
            else f"nothing {what}: the registry is up to date"
        )
        yield from (f"! {fault}" for fault in self.faults)
        for model in self.broken:
            yield from model.lines(applied=self.applied)
        if self.models and not self.broken:
            yield f"{self.models} model version{'s' if self.models != 1 else ''}: all fit"

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        return asdict(self)


@dataclass
class Declared:
    """The repo's current definitions, compiled, and the views that are registered (see :func:`_applied_views`)."""

    views: dict[str, View]
    applied: dict[str, View | None]
    tables: dict[str, TableDeclaration]
    services: dict[str, Contract] = field(default_factory=dict)


def plan(repo: Repo) -> ApplyPlan:
    """Compare the definitions with the registry and with the trained models; changes nothing.

    Raises:
        SettingsError: A definition is wrong.
    """
    with ExitStack() as afterwards:
        afterwards.callback(_removal_of_new_registry(repo))
        return _plan(repo)


def apply(repo: Repo, *, force: bool = False) -> ApplyPlan:
    """Register the definitions through Feast's own apply; returns what it changed.

    Args:
        repo: The feature repo.
        force: Apply although that breaks a version that is served.

    Raises:
        SettingsError: A definition is wrong; nothing was changed.
        SchemaError: A definition does not fit its table; nothing was changed.
        CheckFailedError: It would break a version that is served; nothing was changed.
        OnlineStoreError: The online store could not be prepared.
    """
    from feast.repo_operations import apply_total_with_repo_instance

    with ExitStack() as refused:
        refused.callback(_removal_of_new_registry(repo))
        done = _plan(repo)
        _refuse_faults(done.faults)
        if not force:
            _refuse_broken([b for b in done.broken if b.breaks])
        refused.pop_all()
    with feast_call("applying", repo=repo.path), definition_files.inside(repo.path):
        contents = definition_files.parse(repo.settings)
        apply_total_with_repo_instance(
            repo.store, repo.settings.project, repo.store.registry, contents, skip_source_validation=True
        )  # the sources were checked by the plan
        _register_left_out(repo, contents)
    fill_caches(repo)
    repo.settings.hide_data_from_feast()
    return replace(done, applied=True)


def _removal_of_new_registry(repo: Repo) -> Callable[[], None]:
    """What removes the registry's file if there is none now: Feast creates an empty one when it reads it."""
    registry = registry_file(repo.settings)
    if registry is None or registry.exists():
        return lambda: None
    return partial(registry.unlink, missing_ok=True)


def _refuse_faults(faults: Sequence[DefinitionFault]) -> None:
    if faults:
        told = faults[0] if len(faults) == 1 else "; ".join(f"({i}) {fault}" for i, fault in enumerate(faults, 1))
        raise SchemaError(f"nothing was applied, because definitions do not fit their tables: {told}")


def _refuse_broken(broken: Sequence[BrokenModel]) -> None:
    if broken:
        told = "; ".join(f"{b.model} {b.version} ({b.served}): {b.told_breaks}" for b in broken)
        raise CheckFailedError(
            f"nothing was applied, because it would break what is served: {told}; declare the change as a view of another name and "
            "train with that, or apply with --force, then train, build and deploy again"
        )


def fill_caches(repo: Repo) -> None:
    """Cache table declarations and contracts as the registry now has them, so that the commands that follow start without Feast."""
    fresh = Repo.open(repo.path)
    declarations(fresh)
    for service in fresh.services():
        with suppress(AsofError):  # a service that does not compile is an error of the command that asks for it
            fresh.contract(service)


def broken_models(models: Path, services: Mapping[str, Contract]) -> tuple[tuple[BrokenModel, ...], int]:
    """The trained models that do not fit ``services`` (name -> declared contract), and the number of versions checked.

    A bundle that cannot be read is listed as broken.
    """
    found: list[BrokenModel] = []
    names = sorted(p.name for p in models.iterdir()) if models.is_dir() else []
    known = [(name, bundle.versions(models, name)) for name in names]
    for name, versions in known:
        for version in versions:
            service, features = _broken(models / name / version, services)
            if features:
                found.append(BrokenModel(name, version, version == versions[-1], service, features))
    return tuple(found), sum(len(versions) for _, versions in known)


def _plan(repo: Repo) -> ApplyPlan:
    declared, changes = _compare(repo)
    broken, models = broken_models(repo.settings.models, declared.services)
    broken = _judged(broken, repo.settings, declared)
    faults = definition_faults(declared.tables, declared.views.values(), repo.path)
    return ApplyPlan(changes, faults, broken, models)


def _judged(broken: Sequence[BrokenModel], settings: RepoSettings, declared: Declared) -> tuple[BrokenModel, ...]:
    """``broken``, with how each is served, and what would break that."""
    served = {model: served_versions(settings, model) for model in sorted({b.model for b in broken})}
    applied = {name: view for name, view in declared.applied.items() if view is not None}
    judged = []
    for version in broken:
        how, breaks = served[version.model].get(version.version, ""), {}
        if how and version.service != UNREADABLE:
            contract = bundle.Bundle.open(settings.models / version.model / version.version, verify=False).contract
            before, after = stored_changes(contract, applied), stored_changes(contract, declared.views)
            breaks = {view: why for view, why in after.items() if view not in before}
        judged.append(replace(version, served=how, breaks=breaks))
    return tuple(judged)


def _compare(repo: Repo) -> tuple[Declared, tuple[RegistryChange, ...]]:
    with feast_call("reading the definitions", repo=repo.path), definition_files.inside(repo.path):
        contents = definition_files.parse(repo.settings)
        difference, _, _ = repo.store.plan(contents)
        declared = _compile(repo, contents)
    return declared, _changes(difference, declared.views, declared.applied)


def _compile(repo: Repo, contents: RepoContents) -> Declared:
    from asof.feast.compiler import compile_service, compile_view
    from asof.feast.registry import compile_tables

    stored = [*contents.feature_views, *contents.stream_feature_views]
    every: list[Any] = [*stored, *contents.on_demand_feature_views]
    services = {s.name: compile_service(s, every, repo.settings.project, repo.path) for s in contents.feature_services}
    views = {v.name: compile_view(v) for v in stored}
    return Declared(views, _applied_views(repo), compile_tables(contents.data_sources, views.values()), services)


def _applied_views(repo: Repo) -> dict[str, View | None]:
    """Registered views by name; None for a view that this version of asof cannot compile."""
    from asof.feast.compiler import compile_view

    found: dict[str, View | None] = {}
    for view in [*repo.store.list_feature_views(), *repo.store.list_stream_feature_views()]:
        try:
            found[view.name] = compile_view(view)
        except AsofError:
            found[view.name] = None
    return found


def _changes(
    difference: Any, declared: Mapping[str, View], applied: Mapping[str, View | None]
) -> tuple[RegistryChange, ...]:
    from feast.diff.property_diff import TransitionType
    from feast.feature_view import DUMMY_ENTITY_NAME

    actions: dict[Any, Action] = {
        TransitionType.CREATE: "add",
        TransitionType.UPDATE: "change",
        TransitionType.DELETE: "remove",
    }
    found: dict[str, RegistryChange] = {}
    for item in difference.feast_object_diffs:
        action, kind = actions.get(item.transition_type), item.feast_object_type.value
        lines = tuple(p.property_name for p in item.feast_object_property_diffs)
        if item.name in declared and item.name in applied and kind in _VIEW_KINDS:
            lines = (*_view_changes(applied[item.name], declared[item.name]), *(n for n in lines if n in _VIEW_WORDS))
            action = "change" if lines else None
        if action == "change" and kind == "feature service":
            lines = _service_changes(item.current_feast_object, item.new_feast_object) or lines
        if action is not None and item.name != DUMMY_ENTITY_NAME:
            found[f"{kind} {item.name}"] = RegistryChange(action, kind, item.name, lines)
    order = {"remove": 2, "change": 1, "add": 0}
    return tuple(sorted(found.values(), key=lambda c: (order[c.action], c.kind, c.name)))


def _service_changes(applied: Any, declared: Any) -> tuple[str, ...]:
    old, new = (
        [f"feature {f.name}" for p in s.feature_view_projections for f in p.features] for s in (applied, declared)
    )
    return changes(dict.fromkeys(old, ""), dict.fromkeys(new, ""))


def _view_changes(applied: View | None, declared: View) -> tuple[str, ...]:
    return ("is registered in a way that cannot be read",) if applied is None else view_changes(applied, declared)


def _broken(path: Path, services: Mapping[str, Contract]) -> tuple[str, dict[str, tuple[str, ...]]]:
    try:
        contract = bundle.Bundle.open(path, verify=False).contract
    except (AsofError, OSError) as error:
        return UNREADABLE, {"(all)": (str(error),)}
    return contract.service, feature_changes(contract, services.get(contract.service))


def _register_left_out(repo: Repo, contents: RepoContents) -> None:
    """Register views again that changed although Feast took them for unchanged: it ignores tiling and sources of stream views."""
    from asof.feast.compiler import compile_view

    registry, project, applied = repo.store.registry, repo.settings.project, _applied_views(repo)
    for view in [*contents.feature_views, *contents.stream_feature_views]:
        if applied.get(view.name) != compile_view(view):
            registry.delete_feature_view(view.name, project, commit=False)
            registry.apply_feature_view(view, project, commit=True)
