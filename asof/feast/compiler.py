"""Compiles Feast definitions into contracts.

:func:`compile_view` compiles one feature view, :func:`compile_service` a feature service. Both
take objects as the registry returns them (types inferred, sources resolved). What Feast accepts but asof
does not support (a window without length, an unknown function, a source that is not a file) is refused here, by name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from feast import FeatureService, FeatureView, FileSource, OnDemandFeatureView, StreamFeatureView
from feast.data_format import DeltaFormat
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME

from asof.contract import (
    EVENT_ID_TAG,
    KEY_TYPES,
    WINDOW_FUNCTIONS,
    Aggregation,
    Contract,
    Feature,
    Field,
    JoinKey,
    OnDemandView,
    Source,
    View,
)
from asof.contract.on_demand import add_path, load
from asof.errors import NotFoundError, SettingsError
from asof.instants import MICROSECOND, span_micros

if TYPE_CHECKING:
    from feast.feature_view_projection import FeatureViewProjection

DEFAULT_HOP = 5 * 60 * 1_000_000
"""Bucket width of a tiled view that names none: Feast's default of five minutes."""

WRITTEN = "written"
"""The time column of a stored on-demand view: the moment of writing."""

_NO_MODULE = frozenset({"__main__", "feast_udf_rehydrate"})
"""Feast's module name for a decorated function, and for one that it made from the source text in the registry."""


def compile_view(view: FeatureView, projection: FeatureViewProjection | None = None) -> View:
    """The compiled feature view.

    Args:
        view: A feature view as the registry returns it.
        projection: The projection to read alias and join key map from; by default the view's own.

    Raises:
        SettingsError: The view declares what asof does not support.
    """
    used = projection if projection is not None else view.projection
    aggregations = _aggregations(view)
    keys = {c.name for c in view.entity_columns}
    _check_keys(view)
    fields = tuple(
        _field(f) for f in view.features if f.name not in keys
    )  # a registered stream view lists its keys again
    _check_features(view.name, fields, aggregations)
    return View(
        name=view.name,
        alias=used.name_to_use() if used else view.name,
        join_keys=_join_keys(view, dict(used.join_key_map) if used else {}),
        features=fields,
        ttl=span_micros(view.ttl) if view.ttl else 0,
        source=_source(view),
        aggregations=aggregations,
        hop=_hop(view),
        online=bool(view.online),
    )


def compile_written(view: OnDemandFeatureView) -> View:
    """The stored view of an on-demand view that Feast computes when rows are written (``write_to_online_store``).

    Feast stamps its rows with the moment of writing, so event time is that moment, and there is no ttl.
    """
    keys = {c.name for c in view.entity_columns}
    fields = tuple(_field(f) for f in view.features if f.name not in keys)
    used = view.projection
    return View(
        name=view.name,
        alias=used.name_to_use() if used else view.name,
        join_keys=_join_keys(view, dict(used.join_key_map or {}) if used else {}),
        features=fields,
        ttl=0,
        source=Source(view.name, "", "parquet", WRITTEN),
    )


def compile_on_demand(
    view: OnDemandFeatureView,
    repo: Path | None,
    aliases: Mapping[str, str],
    projection: FeatureViewProjection | None = None,
) -> OnDemandView:
    """The compiled on-demand feature view.

    Args:
        view: An on-demand feature view as the registry returns it.
        repo: Folder that its function's module is imported from; None to search ``sys.path`` only.
        aliases: Alias in use for each stored view's name.
        projection: The projection to read the alias from; by default the view's own.

    Raises:
        SettingsError: Its function cannot be imported by name, or its mode is not python or pandas.
    """
    if view.mode not in ("python", "pandas") or view.feature_transformation is None:
        raise SettingsError(f"on-demand view {view.name!r} has mode {view.mode!r}, expected python or pandas")
    module, attribute = locate(view.feature_transformation.udf, repo, view.name)
    used = projection if projection is not None else view.projection
    return OnDemandView(
        name=view.name,
        alias=used.name_to_use() if used else view.name,
        function=f"{module.__name__}:{attribute}",
        source_hash=source_hash(module, attribute),
        mode="pandas" if view.mode == "pandas" else "python",
        singleton=bool(view.singleton),
        inputs=tuple(
            (aliases.get(p.name, p.name_to_use()), f.name)
            for p in view.source_feature_view_projections.values()
            for f in p.features
        ),
        request=tuple(_field(f) for s in view.source_request_sources.values() for f in s.schema),
        features=tuple(_field(f) for f in view.features),
    )


def compile_service(
    service: FeatureService, views: Iterable[FeatureView | OnDemandFeatureView], project: str, repo: Path | None = None
) -> Contract:
    """The contract of a feature service.

    Where a service takes a feature of one view twice (under ``with_name``), all its features have their full names ``<alias>__<feature>``,
    as Feast returns them with ``full_feature_names=True``.

    Args:
        service: A feature service as the registry returns it.
        views: All views of the project, of every kind.
        project: Feast project.
        repo: Folder of the feature repo; on-demand functions are imported from it.

    Raises:
        NotFoundError: The service names a view that does not exist.
        SettingsError: Two features share a name, or a view cannot be compiled.
    """
    by_name = {v.name: v for v in views}
    stored: dict[str, View] = {}
    on_demand: list[OnDemandView] = []
    features: list[Feature] = []
    projections = service.feature_view_projections
    full = _used_twice(projections)
    uses = Counter(p.name for p in projections)
    aliases = {p.name: p.name_to_use() for p in projections if uses[p.name] == 1}
    for projection in projections:
        if projection.name not in by_name:
            raise NotFoundError("feature view", projection.name, by_name)
        view = by_name[projection.name]
        if isinstance(view, OnDemandFeatureView):
            on_demand.append(compile_on_demand(view, repo, aliases, projection))
            _add_sources(stored, view, by_name, aliases)
        else:
            stored[projection.name_to_use()] = compile_view(view, projection)
        features += [
            Feature(
                f"{projection.name_to_use()}__{f.name}" if full else f.name,
                projection.name_to_use(),
                f.name,
                _dtype(f),
                on_demand=isinstance(view, OnDemandFeatureView),
            )
            for f in projection.features
        ]
    _check_unique(service.name, features)
    return Contract(project, service.name, tuple(features), tuple(stored.values()), tuple(on_demand))


def locate(function: Callable[..., Any], repo: Path | None, owner: str) -> tuple[ModuleType, str]:
    """The module and attribute under which ``function`` can be imported again.

    Feast renames the module of decorated functions to ``__main__``, so the file that the code came from decides.

    Raises:
        SettingsError: The function has no importable name (a lambda, a closure, a notebook cell).
    """
    for name in _module_names(function, repo):
        module = _import(name, repo)
        if module is not None and _names(getattr(module, function.__name__, None), function):
            return module, function.__name__
    raise SettingsError(
        f"on-demand view {owner!r} is computed by {function.__name__!r}, which cannot be imported by name; "
        "define it with `def` at the top level of a file of the feature repo"
    )


def source_hash(module: ModuleType, attribute: str) -> str:
    """SHA-256 over the definition of ``attribute`` and of all names of ``module`` that it reaches, comments left out."""
    definitions = _definitions(ast.parse(inspect.getsource(module)))
    reached, todo = {}, [attribute]
    while todo:
        name = todo.pop()
        if name in definitions and name not in reached:
            reached[name] = ast.dump(definitions[name])
            todo += [n.id for n in ast.walk(definitions[name]) if isinstance(n, ast.Name)]
    text = "\n".join(f"{name}={reached[name]}" for name in sorted(reached))
    return hashlib.sha256(text.encode()).hexdigest()


def _definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update({t.id: node for t in node.targets if isinstance(t, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def _module_names(function: Callable[..., Any], repo: Path | None) -> list[str]:
    """Modules that may define ``function``: Feast drops the module name of decorated functions and the file of registered ones."""
    names = [] if function.__module__ in _NO_MODULE else [function.__module__]
    if repo is not None:
        files = list(_defining(repo, function.__name__))
        written = [p for p in files if p == Path(function.__code__.co_filename)] or files
        if len(written) > 1:
            raise SettingsError(
                f"{function.__name__!r} is defined in {', '.join(str(p) for p in written)}; rename all but one"
            )
        names += [".".join(p.relative_to(repo).with_suffix("").parts) for p in written]
    return names


def _defining(repo: Path, function: str) -> Iterator[Path]:
    """Files with a ``def`` of ``function``, without hidden and generated ones (``data`` holds bundles with copies of modules)."""
    head = re.compile(rf"^def {re.escape(function)}\(", re.MULTILINE)
    for folder, inner, files in os.walk(repo):
        inner[:] = sorted(i for i in inner if not i.startswith(".") and not (i == "data" and Path(folder) == repo))
        named = (Path(folder, name) for name in sorted(files) if name.endswith(".py"))
        yield from (path for path in named if head.search(path.read_text(encoding="utf-8", errors="replace")))


def _import(name: str, repo: Path | None) -> ModuleType | None:
    if repo is not None:
        add_path(str(repo))
        _forget_namesake(name, repo)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _forget_namesake(name: str, repo: Path) -> None:
    """Unload a module of this name that this process imported from another repo."""
    expected = repo.joinpath(*name.split(".")).with_suffix(".py")
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None and expected.is_file() and Path(loaded).resolve() != expected.resolve():
        del sys.modules[name]
        sys.path.remove(str(repo))
        sys.path.insert(0, str(repo))
        importlib.invalidate_caches()
        load.cache_clear()


def _names(found: Any, function: Callable[..., Any]) -> bool:
    transformation = getattr(found, "feature_transformation", None)
    candidate = getattr(transformation, "udf", found)
    return getattr(candidate, "__code__", None) is not None and candidate.__code__.co_name == function.__code__.co_name


def _used_twice(projections: Sequence[FeatureViewProjection]) -> bool:
    """Whether a feature of one view is taken under two names of the view, so that short names would collide."""
    taken = [(p.name, f.name) for p in projections for f in p.features]
    names = [p.name_to_use() for p in projections]
    return len(set(taken)) < len(taken) and len(set(names)) == len(names)


def _add_sources(
    stored: dict[str, View], view: OnDemandFeatureView, by_name: Mapping[str, Any], aliases: Mapping[str, str]
) -> None:
    for projection in view.source_feature_view_projections.values():
        alias = aliases.get(projection.name, projection.name_to_use())
        if alias not in stored:
            stored[alias] = compile_view(by_name[projection.name], projection)


def _field(feast_field: Any) -> Field:
    return Field(feast_field.name, _dtype(feast_field))


def _dtype(feast_field: Any) -> str:
    return str(feast_field.dtype).lower()


def _join_keys(view: FeatureView | OnDemandFeatureView, renamed: Mapping[str, str]) -> tuple[JoinKey, ...]:
    columns = [c for c in view.entity_columns if c.name != DUMMY_ENTITY_ID]
    keys = tuple(JoinKey(c.name, renamed.get(c.name, c.name), _dtype(c)) for c in columns)
    for key in keys:
        if key.dtype not in KEY_TYPES:
            # Two numbers that differ may look alike, and a number may look different from itself (1.0 and 1).
            raise SettingsError(
                f"join key {key.column!r} of view {view.name!r} is {key.dtype}, expected one of {', '.join(KEY_TYPES)}; "
                "declare its entity's value_type, or make a text of it"
            )
    return keys


def _check_keys(view: FeatureView) -> None:
    """Refuse a view with entities whose keys Feast found neither in its schema nor in its source; it would have no keys at all."""
    entities = [name for name in view.entities if name != DUMMY_ENTITY_NAME]
    found = [c.name for c in view.entity_columns if c.name != DUMMY_ENTITY_ID]
    if len(found) < len(entities):
        raise SettingsError(
            f"view {view.name!r} has the entities {', '.join(entities)} and only the keys {', '.join(found) or '(none)'}: its schema and its "
            "source have no column for the rest; name an existing column in the entity's join_keys, or declare the key in the view's schema"
        )


def _source(view: FeatureView) -> Source:
    batch = view.batch_source
    if not isinstance(batch, FileSource):
        given = type(batch).__name__ if batch is not None else "no batch source"
        raise SettingsError(f"view {view.name!r} reads from {given}, expected a FileSource (Parquet or Delta)")
    push = getattr(view, "stream_source", None)
    return Source(
        name=batch.name,
        path=batch.path,
        format="delta" if isinstance(batch.file_format, DeltaFormat) else "parquet",
        timestamp_field=spelled_in_files(batch, batch.timestamp_field or getattr(view, "timestamp_field", "")),
        created_timestamp_column=spelled_in_files(batch, batch.created_timestamp_column) or None,
        field_mapping=dict(batch.field_mapping or {}),
        event_id=batch.tags.get(EVENT_ID_TAG),
        push_name=push.name if push is not None else None,
    )


def spelled_in_files(source: FileSource, name: str | None) -> str:
    """A column's name in the files; Feast accepts the names of time columns before and after ``field_mapping``."""
    return next((raw for raw, mapped in (source.field_mapping or {}).items() if mapped == name), name or "")


def _hop(view: FeatureView) -> int:
    if not getattr(view, "enable_tiling", False):
        return MICROSECOND
    declared = getattr(view, "tiling_hop_size", None)
    return span_micros(declared) if declared else DEFAULT_HOP


def _aggregations(view: FeatureView) -> tuple[Aggregation, ...]:
    declared = view.aggregations if isinstance(view, StreamFeatureView) else ()
    return tuple(_aggregation(view.name, a) for a in declared)


def _aggregation(owner: str, declared: Any) -> Aggregation:
    if not declared.time_window:
        raise SettingsError(f"view {owner!r} aggregates {declared.column!r} without a time_window; give it one")
    if declared.function not in WINDOW_FUNCTIONS:
        raise SettingsError(
            f"view {owner!r} aggregates with {declared.function!r}, expected one of {', '.join(WINDOW_FUNCTIONS)}"
        )
    name = declared.resolved_name(declared.time_window)
    return Aggregation(name, declared.column, declared.function, span_micros(declared.time_window))


def _check_features(owner: str, fields: Sequence[Field], aggregations: Sequence[Aggregation]) -> None:
    if not aggregations:
        return
    names, produced = {f.name for f in fields}, {a.name for a in aggregations}
    if names != produced:
        raise SettingsError(
            f"view {owner!r} must declare exactly the features that its aggregations produce; "
            f"missing in the schema: {sorted(produced - names)}, without an aggregation: {sorted(names - produced)}"
        )


def _check_unique(service: str, features: Sequence[Feature]) -> None:
    seen: dict[str, str] = {}
    for feature in features:
        if feature.name in seen:
            raise SettingsError(
                f"feature service {service!r} has two features named {feature.name!r} "
                f"(from {seen[feature.name]} and {feature.view}); rename one"
            )
        seen[feature.name] = feature.view
