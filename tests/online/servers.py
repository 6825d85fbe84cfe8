"""Redis in its other forms, for tests: servers on loopback ports, Sentinel, a cluster, TLS in front of a server."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from asof.online.redis.server import find_server

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUKXqgfem171Wg00XYvHazvlv6Tb8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTAxNTgzMFoYDzIxMjYxMDI4
MDE1ODMwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQJMomC0o9iR69AcDeOridB37qRWD81nxttuSfiwcKBD644T1BaOQs+
MN8834XI2EZUcKZWc5xgJ4tszxdr6OR5o28wbTAdBgNVHQ4EFgQUj2M8Spj6xvQZ
EpJ/DLeURgtj4rswHwYDVR0jBBgwFoAUj2M8Spj6xvQZEpJ/DLeURgtj4rswDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgRX9SLa7kiQMH4kodZP5RqWi86oMJgf0NM/TGJvWogG8CIF3A
f9zZgQOv5iaOeIUO0JMyFQiR6KALmDr+u0SPGKZh
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgfK1a4803Z3aKIDqM
1oU2VJB+IbHcg8QrF+oDauUbG9mhRANCAAQJMomC0o9iR69AcDeOridB37qRWD81
nxttuSfiwcKBD644T1BaOQs+MN8834XI2EZUcKZWc5xgJ4tszxdr6OR5
-----END PRIVATE KEY-----
"""  # of nobody: it only ever guards a loopback port of a test


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago, below those that cluster nodes add to theirs."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            if port < 50_000:
                found.append(port)
        return found


@contextmanager
def server(folder: Path, port: int, *options: str) -> Iterator[redis.Redis]:
    """A redis-server on a loopback port; gives a client that knows its password."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    password = options[options.index("--requirepass") + 1] if "--requirepass" in options else None
    client = redis.Redis(port=port, password=password)
    try:
        until(lambda: bool(client.ping()))
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until ``holds`` is true and raises nothing."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if holds():
                return
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@contextmanager
def cluster(folder: Path) -> Iterator[list[int]]:
    """A cluster of three masters; gives their ports."""
    ports = free_ports(3)
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(server(folder / str(p), p, "--cluster-enabled", "yes")) for p in ports]
        for number, node in enumerate(nodes):
            first, past = number * 16384 // 3, (number + 1) * 16384 // 3
            node.execute_command("CLUSTER", "ADDSLOTS", *range(first, past))
            node.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        until(
            lambda: all(b"cluster_state:ok" in _raw_info(n) and b"cluster_known_nodes:3" in _raw_info(n) for n in nodes)
        )
        yield ports


def _raw_info(node: redis.Redis) -> bytes:
    found = node.execute_command("CLUSTER INFO")
    return found if isinstance(found, bytes) else "\n".join(f"{k}:{v}" for k, v in found.items()).encode()


@contextmanager
def sentinel(folder: Path, master: int, name: str) -> Iterator[int]:
    """A Sentinel that watches one master; gives its port."""
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {name} 127.0.0.1 {master} 1\n")
    process = subprocess.Popen([find_server(), str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        until(lambda: bool(client.ping()))
        yield port
    finally:
        client.close()
        process.kill()
        process.wait()


@contextmanager
def tls(folder: Path, target: int) -> Iterator[tuple[int, Path]]:
    """TLS in front of a server, as a proxy would do it; gives the port and the certificate to trust."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.pem").write_text(CERTIFICATE)
    (folder / "k.pem").write_text(KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "c.pem", folder / "k.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, context, target), daemon=True).start()
        yield listener.getsockname()[1], folder / "c.pem"


def _serve(listener: socket.socket, context: ssl.SSLContext, target: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=_relay, args=(plain, context, target), daemon=True).start()


def _relay(plain: socket.socket, context: ssl.SSLContext, target: int) -> None:
    """Carry bytes both ways until one side ends."""
    with contextlib.suppress(OSError), plain, socket.create_connection(("127.0.0.1", target)) as inner:
        outer = context.wrap_socket(plain, server_side=True)
        back = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
        back.start()
        _pump(outer, inner)
        back.join(5)
        outer.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def addresses(ports: Sequence[int]) -> str:
    """A connection string that names these loopback ports."""
    return ",".join(f"127.0.0.1:{p}" for p in ports)
