"""A service inside the process of the test: BentoML's application with our middleware."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

ROW = {"machine_id": 1, "site": "north", "load": 8.0, "read_at": "2024-05-01T13:30:00Z"}
AT = 1_714_570_200_000_000


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that has started."""
    from asof.serving.service import make

    app = make(folder).to_asgi()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client


def run(folder: Path, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """The result of ``work`` with a client of a running service."""

    async def inside() -> Any:
        async with serving(folder) as client:
            return await work(client)

    return asyncio.run(inside())


def post(folder: Path, body: Any = None, **options: Any) -> httpx.Response:
    """The answer to one prediction request."""
    content = options.pop("content", json.dumps({"rows": [ROW]} if body is None else body))
    headers = {"content-type": "application/json", **options.pop("headers", {})}

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/predict", content=content, headers=headers)

    answer: httpx.Response = run(folder, work)
    return answer


def get(folder: Path, path: str, method: str = "GET") -> httpx.Response:
    """The answer to one request without body."""
    answer: httpx.Response = run(folder, lambda client: client.request(method, path))
    return answer


def error(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, after checking its shape."""
    payload: dict[str, Any] = answer.json()["error"]
    assert set(payload) == {"code", "message", "problems", "request_id"}
    assert "\n" not in payload["message"]
    return payload
