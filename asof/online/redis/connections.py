"""Connects to Redis: embedded, a single server, Sentinel or Cluster; with TLS, user and password.

Connection strings are Feast's: ``host:port[,host:port...][,key=value...]``; ``redis_type`` selects the kind of deployment. Errors of
Redis are raised as :class:`OnlineStoreError` with one line that names the address without its secrets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import ExponentialBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from asof.errors import OnlineStoreError, SettingsError
from asof.online.redis.server import EmbeddedRedis
from asof.settings import OnlineSettings

Client = redis.Redis | RedisCluster
AsyncClient = redis.asyncio.Redis | AsyncRedisCluster

BACKOFF_BASE, BACKOFF_CAP = 0.02, 0.5
"""Seconds before the first retry, and at most before any."""


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed connection string: the hosts, and the options for redis-py (passwords among them)."""

    hosts: tuple[tuple[str, int], ...]
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"Address(hosts={self.hosts!r}, options={sorted(self.options)!r})"


def parse(connection_string: str) -> Address:
    """The parts of a connection string in Feast's format.

    Raises:
        SettingsError: It names no host, or a port is not a number; the text itself is not repeated, it may hold a password.
    """
    hosts: list[tuple[str, int]] = []
    options: dict[str, Any] = {}
    for part in (p.strip() for p in connection_string.split(",") if p.strip()):
        name, equals, value = part.partition("=")
        if equals:
            options[name] = _option(value) if name not in ("password", "username", "sentinel_password") else value
            continue
        host, _, port = part.rpartition(":")
        if not host or not port.isdecimal():
            raise SettingsError("online_store.connection_string: expected host:port[,key=value...] or embedded")
        hosts.append((host.strip("[]"), int(port)))
    if not hosts:
        raise SettingsError(
            "online_store.connection_string names no host; expected host:port[,key=value...] or embedded"
        )
    return Address(tuple(hosts), options)


def connect(settings: OnlineSettings) -> Client:
    """A client for ``settings``; starts the embedded server where that is what they name.

    Raises:
        OnlineStoreError: The embedded server does not start.
        SettingsError: The connection string cannot be understood.
    """
    options = _limits(settings) | {"retry": Retry(ExponentialBackoff(BACKOFF_CAP, BACKOFF_BASE), settings.retries)}
    if settings.embedded:
        return redis.Redis(unix_socket_path=_started(settings), **options)
    address = parse(settings.connection_string)
    options |= address.options
    with translated(settings), _known_options():
        if settings.redis_type == "redis_cluster":
            del options["retry"]
            return RedisCluster(startup_nodes=[ClusterNode(h, p) for h, p in address.hosts], **options)  # type: ignore[no-untyped-call]
        if settings.redis_type == "redis_sentinel":
            sentinel: Any = Sentinel(list(address.hosts), **_sentinel(options))  # type: ignore[no-untyped-call]
            master: redis.Redis = sentinel.master_for(settings.sentinel_master)
            return master
        return redis.Redis(host=address.hosts[0][0], port=address.hosts[0][1], **options)


def connect_async(settings: OnlineSettings) -> AsyncClient:
    """As :func:`connect`, for ``asyncio``; the client belongs to the running event loop."""
    options = _limits(settings) | {"retry": AsyncRetry(ExponentialBackoff(BACKOFF_CAP, BACKOFF_BASE), settings.retries)}
    if settings.embedded:
        return redis.asyncio.Redis(unix_socket_path=_started(settings), **options)
    address = parse(settings.connection_string)
    options |= address.options
    with translated(settings), _known_options():
        if settings.redis_type == "redis_cluster":
            del options["retry"]
            return AsyncRedisCluster(startup_nodes=[AsyncClusterNode(h, p) for h, p in address.hosts], **options)
        if settings.redis_type == "redis_sentinel":
            sentinel: Any = AsyncSentinel(list(address.hosts), **_sentinel(options))  # type: ignore[no-untyped-call]
            master: redis.asyncio.Redis = sentinel.master_for(settings.sentinel_master)
            return master
        return redis.asyncio.Redis(host=address.hosts[0][0], port=address.hosts[0][1], **options)


async def close_async(client: AsyncClient) -> None:
    """Close all connections of ``client``, those to Sentinel included, which redis-py leaves open."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    await client.aclose()
    for sentinel in getattr(manager, "sentinels", ()):
        await sentinel.aclose()


@contextmanager
def translated(settings: OnlineSettings) -> Iterator[None]:
    """Raise errors of Redis as :class:`OnlineStoreError`."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise online_store_error(settings, error) from error


def online_store_error(settings: OnlineSettings, error: redis.RedisError | OSError) -> OnlineStoreError:
    """The error for the user: what happened, at which address, and what to do."""
    what, advice = _description(settings, error)
    return OnlineStoreError(f"{settings.server} {what}; {advice}")


def _description(settings: OnlineSettings, error: redis.RedisError | OSError) -> tuple[str, str]:
    """What happened, and what to do."""
    full = "raise its maxmemory or delete data; nothing was half-written"
    if isinstance(error, redis.AuthenticationError):
        return "refuses our user or password", "check online_store.connection_string"
    if isinstance(error, redis.OutOfMemoryError):
        return "is full", full
    if isinstance(error, redis.TimeoutError):
        return "does not answer in time", "see online_store.read_timeout and its load"
    if isinstance(error, (redis.ConnectionError, redis.exceptions.ClusterDownError, OSError)):
        return "cannot be reached", _advice(settings)
    if isinstance(error, redis.ResponseError):
        return ("is full", full) if "OOM" in str(error) else (f"refused a command ({str(error)[:120]})", "see its log")
    return f"failed ({type(error).__name__})", "see its log"


@contextmanager
def _known_options() -> Iterator[None]:
    """Raise :class:`SettingsError` for an unknown option, which redis-py reports as a ``TypeError``."""
    try:
        yield
    except TypeError as error:
        unknown = str(error).rpartition(" ")[2]
        raise SettingsError(
            f"online_store.connection_string has the unknown option {unknown}; see redis-py's options"
        ) from None


def _advice(settings: OnlineSettings) -> str:
    return "see `asof redis status`" if settings.embedded else "check that it runs and online_store.connection_string"


def _started(settings: OnlineSettings) -> str:
    server = EmbeddedRedis(settings.folder)
    server.start()
    return server.socket


def _limits(settings: OnlineSettings) -> dict[str, Any]:
    return {"socket_connect_timeout": settings.connect_timeout, "socket_timeout": settings.read_timeout, "protocol": 2}


def _sentinel(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the master apply to Sentinel's own connections as well, as in Feast, apart from the password and the database."""
    own = {k: v for k, v in options.items() if k not in ("password", "username", "db", "sentinel_password", "retry")}
    if "sentinel_password" in options:
        own["password"] = options["sentinel_password"]
    master = {k: v for k, v in options.items() if k != "sentinel_password"}
    return {"sentinel_kwargs": own, **master}


def _option(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
