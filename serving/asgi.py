"""The ASGI middleware that answers ``POST /predict``, ``/metrics``, ``/docs.json`` and the page at ``/``, and gives every error the same JSON shape.

BentoML answers all other paths. The middleware runs inside BentoML's own middlewares (tracing, timeout). Measured with one
row and a trivial handler: a ``@bentoml.api`` call takes 1.05 ms, a mounted route 0.75 ms, this middleware 0.60 ms, bare uvicorn
0.33 ms. The ``@bentoml.api`` in :mod:`asof.serving.service` declares the types for OpenAPI and for BentoML's clients.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asof.errors import AsofError, OnlineStoreError, RequestError
from asof.prediction_log import Entry
from asof.quantities import counted
from asof.serving.predictor import response_body
from asof.serving.problems import RETRY_AFTER, ProblemError, from_status

if TYPE_CHECKING:
    from asof.serving.worker import Worker

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("asof.serving")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_JSON = (b"content-type", b"application/json")

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Forbids every address but the service's own."""

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Prediction service</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
<link rel="icon" type="image/png" href="./static_content/favicon-light-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js" charset="utf-8"></script>
<script src="./page.js"></script>
</body>
</html>
"""
"""Shows the OpenAPI document in Swagger UI, of files that BentoML brings along. BentoML's own page loads Google Tag Manager."""

_PAGE_SCRIPT = b"""window.ui = SwaggerUIBundle({
  url: "./docs.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""
"""Starts Swagger UI, without the badge that it would ask its makers' validator for."""

_PAGE_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _PAGE_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
]
_PAGE_SCRIPT_HEADERS = [(b"content-type", b"text/javascript; charset=utf-8")]


class _DisconnectedError(Exception):
    """The client disconnected before its request was complete."""


class PredictionMiddleware:
    """ASGI middleware around BentoML's application.

    Args:
        app: The application that answers every other path.
        worker: The worker that scores rows.
    """

    def __init__(self, app: App, worker: Worker) -> None:
        self._app, self._worker = app, worker
        self._in_flight = 0
        self._routes = {
            ("POST", "/predict"): self._serve_predict,
            ("GET", "/metrics"): self._serve_metrics,
            ("GET", "/docs.json"): self._serve_openapi,
            ("GET", "/"): self._serve_page,
            ("GET", "/page.js"): self._serve_page_script,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; other scopes go to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        recorder = _StatusRecorder(send)
        try:
            handler = self._routes.get((scope["method"], scope["path"]))
            if handler is not None:
                await handler(scope, receive, recorder)
            else:
                await self._app(scope, receive, _with_our_errors(scope, recorder, self._problem))
        except _DisconnectedError:
            return
        except ProblemError as problem:
            await _send_problem(recorder, problem, None)
        except Exception as error:  # noqa: BLE001 - an exception beyond this point leaves the client without an answer
            _log.error("%s %s failed: %s", scope["method"], _path_label(scope["path"]), described(error))
            await _send_problem(recorder, from_status(500), None)
        finally:
            self._worker.metrics.requests.labels(_path_label(scope["path"]), str(recorder.status)).inc()

    async def _serve_predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        given = _header(scope, b"x-request-id")
        request_id = given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self._in_flight += 1
        try:
            async with asyncio.timeout(self._worker.limits.timeout):
                entry = await self._score(scope, receive, request_id)
        except ProblemError as problem:
            await _send_problem(send, problem, request_id)
        except TimeoutError:
            message = f"no answer within {self._worker.limits.timeout:g} s; try again, with fewer rows if it persists"
            await _send_problem(send, ProblemError("timeout", message), request_id)
        else:
            body = json.dumps(response_body(self._worker.bundle, entry)).encode()
            await _send_response(send, 200, body, _id_header(entry.request_id))
        finally:
            self._in_flight -= 1
            self._worker.metrics.seconds.observe(time.perf_counter() - began)

    async def _score(self, scope: Scope, receive: Receive, request_id: str) -> Entry:
        if self._in_flight > self._worker.limits.max_in_flight:
            raise ProblemError("overloaded", f"{counted(self._in_flight, 'request')} in progress; try again shortly")
        payload = _parse_json(scope, await _body(scope, receive, self._worker.limits.max_body))
        try:
            return await self._worker.handle(payload, request_id)
        except ProblemError:
            raise
        except OnlineStoreError as error:
            raise ProblemError("not_ready", str(error)) from error
        except RequestError as error:
            raise ProblemError("invalid_rows", str(error), [error]) from error
        except AsofError as error:
            _log.error("request %s failed: %s", request_id, error)  # no traceback: it may show values
            raise ProblemError("internal", str(error)) from error

    async def _serve_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        text, kind = await asyncio.to_thread(self._worker.metrics.text)
        await _send_response(send, 200, text, [(b"content-type", kind.encode())])

    async def _serve_openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_response(send, 200, self._worker.openapi)

    async def _serve_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_response(send, 200, _PAGE, _PAGE_HEADERS)

    async def _serve_page_script(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_response(send, 200, _PAGE_SCRIPT, _PAGE_SCRIPT_HEADERS)

    def _problem(self, path: str, status: int) -> ProblemError:
        """The problem behind an error status that BentoML answered with."""
        if path == "/readyz" and status == 503:
            return ProblemError("not_ready", self._worker.readiness.message)
        return from_status(status)


class _StatusRecorder:
    """A ``send`` that records the status of the response; 0 before it has begun."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def _with_our_errors(scope: Scope, send: Send, problem: Callable[[str, int], ProblemError]) -> Send:
    """A ``send`` that replaces BentoML's error responses with ours."""
    replaced: list[ProblemError] = []

    async def replacing(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            replaced.append(problem(scope["path"], message["status"]))
        elif not replaced:
            await send(message)
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            await _send_problem(send, replaced[0], None)

    return replacing


def described(error: BaseException) -> str:
    """Type and place of an error. The message and the source lines are left out: they may hold values of a request."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " > ".join(f"{Path(f.filename).parent.name}/{Path(f.filename).name}:{f.lineno}" for f in frames)
    return f"{type(error).__name__} at {places}"


def _path_label(path: str) -> str:
    """The path as a metric label and in the log. Unknown paths share one label, so that requests cannot create new ones."""
    return path if path in {"/predict", "/readyz", "/livez", "/healthz", "/metrics", "/docs.json"} else "other"


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


async def _body(scope: Scope, receive: Receive, most: int) -> bytes:
    announced = _header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > most:
        raise _too_large(most)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _DisconnectedError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large(most: int) -> ProblemError:
    return ProblemError("too_large", f"the body is larger than {most} bytes; send the rows in several requests")


def _parse_json(scope: Scope, body: bytes) -> Any:
    kind = (_header(scope, b"content-type") or "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ProblemError("unsupported_media_type", "expected the content type application/json")
    try:
        return json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        raise ProblemError("invalid_json", "the body is not JSON; expected an object with the field 'rows'") from None


def _reject_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON; a missing value is null


async def _send_response(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    given = headers or []
    kind = [] if any(name == b"content-type" for name, _ in given) else [_JSON]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*kind, length, *given]})
    await send({"type": "http.response.body", "body": body})


async def _send_problem(send: Send, problem: ProblemError, request_id: str | None) -> None:
    known = problem.request_id or request_id
    headers = _id_header(known) if known else []
    if problem.status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER).encode()))
    body = json.dumps({"error": {**problem.payload, "request_id": known}}).encode()
    await _send_response(send, problem.status, body, headers)


def _id_header(request_id: str) -> list[tuple[bytes, bytes]]:
    """The ``x-request-id`` header; none where the id holds characters that a header cannot carry."""
    return [(b"x-request-id", request_id.encode())] if _REQUEST_ID.fullmatch(request_id) else []
