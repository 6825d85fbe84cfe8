"""Feast's ``OnlineStore`` on Redis: what Feast's API, command line and feature server call.

Reading goes through the same plans as :class:`asof.online.Reader`, all views of a request in one round trip; values become
protobuf only where Feast asks for protobuf. "Now" is this machine's clock, because Feast's requests carry no time.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from feast import Entity, FeatureView, OnDemandFeatureView, RepoConfig
from feast.feature_service import FeatureService
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from pydantic import Field, StrictStr

from asof.contract import View
from asof.errors import RequestError, SchemaError
from asof.feast import protobuf
from asof.feast.compiler import compile_view, compile_written
from asof.feast.raw_events import accept_raw_events, declared_view
from asof.feast.response import FilledResponse, LazyResponse, RequestCache, keyed_rows
from asof.online.read_plan import ReadPlan, ViewFeatures
from asof.online.reader import read, read_async
from asof.online.redis.server import EmbeddedRedis
from asof.online.redis.store import AsyncRedisStore, RedisStore
from asof.online.vectors import Vectors
from asof.online.writer import Writer
from asof.settings import EMBEDDED, OnlineSettings

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
Found = tuple[datetime | None, dict[str, Value] | None]
Filled = dict[str, list[Any] | None]

_FILLED: ContextVar[Filled] = ContextVar("filled")
"""The columns that asof filled into the response of the current request; Feast passes nothing from one step to the next."""

accept_raw_events()


class RedisOnlineStoreConfig(FeastConfigBaseModel):
    """The ``online_store`` section of ``feature_store.yaml``; unknown keys are refused."""

    type: Literal["asof.online.RedisOnlineStore"] = "asof.online.RedisOnlineStore"
    """Selects this store."""

    connection_string: StrictStr = EMBEDDED
    """``embedded`` for a redis-server that asof runs for this repo, or ``host:port[,host:port...][,key=value...]``."""

    redis_type: Literal["redis", "redis_sentinel", "redis_cluster"] = "redis"
    """A single server, a Sentinel or a cluster."""

    sentinel_master: StrictStr = "mymaster"
    """Name of the master that Sentinel watches."""

    key_ttl_seconds: int | None = Field(default=None, ge=1)
    """Seconds after the last write of a key until Redis deletes it; by default never."""

    connect_timeout: float = Field(default=2.0, gt=0)
    """Seconds to wait for a connection."""

    read_timeout: float = Field(default=5.0, gt=0)
    """Seconds to wait for a reply."""

    retries: int = Field(default=2, ge=0)
    """How often a command whose connection broke is tried again."""


def settings_of(config: RepoConfig) -> OnlineSettings:
    """The online settings of a Feast config; ``$ASOF_REDIS`` overrides the connection string."""
    section: RedisOnlineStoreConfig = config.online_store
    return OnlineSettings(
        connection_string=os.environ.get("ASOF_REDIS") or section.connection_string,
        folder=Path(config.repo_path or ".").resolve() / "data" / "redis",
        connect_timeout=section.connect_timeout,
        read_timeout=section.read_timeout,
        retries=section.retries,
        redis_type=section.redis_type,
        sentinel_master=section.sentinel_master,
        key_ttl_seconds=section.key_ttl_seconds or 0,
    )


class RedisOnlineStore(OnlineStore):
    """Feast's online store on Redis, in asof's layout (``docs/online-layout.md``)."""

    def __init__(self) -> None:
        self._stores: dict[int, tuple[RedisOnlineStoreConfig, RedisStore]] = {}
        self._async: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncRedisStore] = WeakKeyDictionary()
        self._plans: dict[Any, ReadPlan] = {}
        self._requests = RequestCache()
        self._lock = threading.Lock()

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes both."""
        return SupportedAsyncMethods(read=True, write=True)

    def writer(self, config: RepoConfig) -> Writer:
        """A writer for the project that uses this store's connections."""
        store = self._store(config)
        writer = Writer(config.project, store)
        writer.key_ttl = store.settings.key_ttl_seconds
        return writer

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows of a plain view, given as protobuf.

        Raises:
            SchemaError: The view is windowed; it takes raw events, through ``push`` or materialization.
            OnlineStoreError: Redis is down or full.
        """
        view = _compiled(declared_view(table))
        if view.windowed:
            raise SchemaError(
                f"view {view.name!r} is windowed: push its raw events, or materialize it, instead of values"
            )
        if data:
            self.writer(config).write(view, protobuf.table_of(view, data))
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """As :meth:`online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Found]:
        """The values of some keys as of now: (event time, feature -> value) per key, (None, None) for an unknown one."""
        view, names = self._wanted(table, requested_features)
        plan = self._plan(config, [ViewFeatures(view, names)], (_identity(table, names),))
        vectors = self._read(config, plan, protobuf.keys_of_entities(view, entity_keys), len(entity_keys))
        return protobuf.found_rows(table, names, vectors)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Found]:
        """As :meth:`online_read`."""
        view, names = self._wanted(table, requested_features)
        plan = self._plan(config, [ViewFeatures(view, names)], (_identity(table, names),))
        vectors = await self._read_async(config, plan, protobuf.keys_of_entities(view, entity_keys), len(entity_keys))
        return protobuf.found_rows(table, names, vectors)

    def get_online_features(
        self, config: RepoConfig, features: list[str] | FeatureService, entity_rows: Any, registry: BaseRegistry, project: str,
        full_feature_names: bool = False, include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:  # fmt: skip
        """As Feast defines it, with the status of every value, on-demand ones included."""
        request = self._requests.compiled(features, registry, project, full_feature_names)
        if request and not include_feature_view_version_metadata and (keys := request.keys(entity_rows)):
            plan = self._plan_of(config, request.grouped)
            vectors = self._read(config, plan, keys, len(next(iter(keys.values()))))
            return LazyResponse(request, keys, vectors, full_feature_names)
        filled = _start()
        with _naming_keys(entity_rows):
            response = super().get_online_features(
                config, features, keyed_rows(entity_rows), registry, project, full_feature_names,
                include_feature_view_version_metadata,
            )  # fmt: skip
        return _answer(response, filled)

    async def get_online_features_async(
        self, config: RepoConfig, features: list[str] | FeatureService, entity_rows: Any, registry: BaseRegistry, project: str,
        full_feature_names: bool = False, include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:  # fmt: skip
        """As :meth:`get_online_features`."""
        request = self._requests.compiled(features, registry, project, full_feature_names)
        if request and not include_feature_view_version_metadata and (keys := request.keys(entity_rows)):
            plan = self._plan_of(config, request.grouped)
            vectors = await self._read_async(config, plan, keys, len(next(iter(keys.values()))))
            return LazyResponse(request, keys, vectors, full_feature_names)
        filled = _start()
        with _naming_keys(entity_rows):
            response = await super().get_online_features_async(
                config, features, keyed_rows(entity_rows), registry, project, full_feature_names,
                include_feature_view_version_metadata,
            )  # fmt: skip
        return _answer(response, filled)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Register the applied views and delete the values of removed ones."""
        writer = self.writer(config)
        for table in tables_to_delete:
            writer.drop(table.name)
        kept = [t for t in tables_to_keep if isinstance(t, FeatureView) and t.batch_source is not None]
        writer.register([compile_view(t) for t in kept])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete everything that is stored for the project, and stop the redis-server if it is the repo's own."""
        settings = settings_of(config)
        self.writer(config).drop_project()
        if settings.connection_string == EMBEDDED:
            for _, store in self._stores.values():
                store.close()
            self._stores = {}
            EmbeddedRedis(settings.folder).stop()

    async def initialize(self, config: RepoConfig) -> None:
        """Connect before the first request."""
        await self._async_store(config).ping()

    async def close(self) -> None:
        """Close all connections."""
        for store in self._async.values():
            await store.close()
        for _, plain in self._stores.values():
            plain.close()

    def _read_features_per_fv(
        self, config: RepoConfig, grouped_refs: list[Any], join_key_values: dict[str, list[Value]],
        entity_name_to_join_key_map: dict[str, str], online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool, include_feature_view_version_metadata: bool,
    ) -> None:  # fmt: skip
        """All views of a request in one round trip; called by Feast's own ``get_online_features``."""
        plan = self._plan_of(config, grouped_refs)
        keys, rows = protobuf.keys_of_request(plan, join_key_values)
        vectors = self._read(config, plan, keys, rows)
        _fill(
            grouped_refs, vectors, online_features_response, full_feature_names, include_feature_view_version_metadata
        )

    async def _read_features_per_fv_async(
        self, config: RepoConfig, grouped_refs: list[Any], join_key_values: dict[str, list[Value]],
        entity_name_to_join_key_map: dict[str, str], online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool, include_feature_view_version_metadata: bool,
    ) -> None:  # fmt: skip
        plan = self._plan_of(config, grouped_refs)
        keys, rows = protobuf.keys_of_request(plan, join_key_values)
        vectors = await self._read_async(config, plan, keys, rows)
        _fill(
            grouped_refs, vectors, online_features_response, full_feature_names, include_feature_view_version_metadata
        )

    def _is_versioned_read_supported(self) -> bool:
        """False; Feast's own check imports a dozen stores."""
        return False

    def _wanted(self, table: FeatureView, names: Sequence[str] | None) -> tuple[View, tuple[str, ...]]:
        view = _compiled(table)
        return view, tuple(names) if names else tuple(f.name for f in view.features)

    def _plan_of(self, config: RepoConfig, grouped_refs: list[Any]) -> ReadPlan:
        identity = tuple(_identity(table, names) for table, names in grouped_refs)
        if (config.project, identity) in self._plans:
            return self._plans[config.project, identity]
        return self._plan(config, [_in_order(_compiled(t), names) for t, names in grouped_refs], identity)

    def _plan(self, config: RepoConfig, wanted: list[ViewFeatures], identity: tuple[Any, ...]) -> ReadPlan:
        return self._plans.setdefault((config.project, identity), ReadPlan(config.project, wanted, exact=True))

    def _read(self, config: RepoConfig, plan: ReadPlan, keys: Mapping[str, list[Any]], rows: int) -> Vectors:
        vectors, fresh = read(plan, self._store(config), keys, _now(rows))
        self._remember(plan, fresh)
        return vectors

    async def _read_async(
        self, config: RepoConfig, plan: ReadPlan, keys: Mapping[str, list[Any]], rows: int
    ) -> Vectors:
        vectors, fresh = await read_async(plan, self._async_store(config), keys, _now(rows))
        self._remember(plan, fresh)
        return vectors

    def _remember(self, plan: ReadPlan, fresh: ReadPlan) -> None:
        if fresh is not plan:
            self._plans = {k: fresh if v is plan else v for k, v in self._plans.items()}

    def _store(self, config: RepoConfig) -> RedisStore:
        section = config.online_store
        found = self._stores.get(id(section))
        if found is None:
            with self._lock:
                found = self._stores.setdefault(id(section), (section, RedisStore(settings_of(config))))
        return found[1]

    def _async_store(self, config: RepoConfig) -> AsyncRedisStore:
        """One for each event loop: connections belong to the loop that opened them."""
        loop = asyncio.get_running_loop()
        if loop not in self._async:
            self._async[loop] = AsyncRedisStore(settings_of(config))
        return self._async[loop]


def _compiled(table: FeatureView | OnDemandFeatureView) -> View:
    """The stored view that a Feast view is, on-demand views that are written included."""
    return compile_written(table) if isinstance(table, OnDemandFeatureView) else compile_view(table)


@contextmanager
def _naming_keys(rows: Any) -> Iterator[None]:
    """Let an error about a missing key name all fields of the request; Feast drops those that it does not know."""
    try:
        yield
    except RequestError as error:
        given = sorted(rows[0] if isinstance(rows, list) else rows)
        if error.field in given:
            raise
        raise RequestError(
            None, error.field, f"is missing; the request has {', '.join(given) or 'no fields'}"
        ) from None


def _start() -> Filled:
    """A new, empty record of the columns filled in for one request."""
    filled: Filled = {}
    _FILLED.set(filled)
    return filled


def _fill(
    grouped_refs: list[Any], vectors: Vectors, response: GetOnlineFeaturesResponse, full_names: bool, versions: bool
) -> None:
    for table, names in grouped_refs:
        _FILLED.get({}).update(protobuf.fill(response, table, names, vectors, full_names, versions))


def _answer(response: OnlineResponse, filled: Filled) -> OnlineResponse:
    return FilledResponse(response, {name: values for name, values in filled.items() if values is not None}, filled)


def _in_order(view: View, names: Sequence[str]) -> ViewFeatures:
    """The features in stored order (Feast gives them in the order of a set), so that they are copied together."""
    return ViewFeatures(view, tuple(f.name for f in view.features if f.name in set(names)))


def _identity(table: FeatureView, names: Sequence[str]) -> tuple[Any, ...]:
    """The key of a cached plan; applying a view again changes its time stamp."""
    projection = table.projection
    renamed = tuple(sorted((projection.join_key_map or {}).items()))
    return table.name, projection.name_to_use(), renamed, str(table.last_updated_timestamp), tuple(names)


def _now(rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.full(rows, time.time_ns() // 1000, np.int64)
