"""The BentoML service of a bundle.

:func:`make` is called by the entry module of a Bento (see :mod:`asof.serving.build`), once in the process that watches the workers and
once in each worker. It therefore reads only the contract; the model is loaded when a worker starts.
"""

# No `from __future__ import annotations` here: BentoML reads the types of `predict` from its annotations, which are
# values made from the contract.

import asyncio
import json
import os
import uuid
from pathlib import Path
from typing import Any

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # BentoML reads this when it is imported

import bentoml

from asof.bundle import Bundle
from asof.serving.api_types import openapi, request_type, response_type
from asof.serving.asgi import PredictionMiddleware
from asof.serving.deployment import Deployment
from asof.serving.limits import Limits
from asof.serving.predictor import response_body
from asof.serving.worker import Worker

BUNDLE = "bundle"
"""Folder of the model bundle in a built service."""


def make(folder: Path) -> Any:
    """The service built in ``folder``.

    Args:
        folder: Holds the bundle and what :func:`asof.serving.deployment.write` wrote.

    Returns:
        A ``bentoml.Service`` with the name of the model.

    Raises:
        BundleError: The bundle is unfinished or damaged.
        SettingsError: A setting of the repo or the environment is wrong.
    """
    bundle = Bundle.open(folder / BUNDLE)
    limits = Limits.from_environment()
    worker = Worker(bundle, Deployment.load(folder), limits)
    service = _declare(worker)
    service.add_asgi_middleware(PredictionMiddleware, worker=worker)
    return service


def _declare(worker: Worker) -> Any:
    contract, event_time = worker.bundle.contract, worker.parser.event_time
    request = request_type(contract, event_time, worker.limits.max_rows)
    rows = request.model_fields["rows"].annotation
    response = response_type(worker.bundle.task)

    @bentoml.service(
        name=worker.bundle.model,
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
        traffic={"timeout": 6 * worker.limits.timeout},
    )
    class Predictions:
        """Scores rows: features from the online store, on-demand functions, the model, the decision."""

        @bentoml.on_startup  # type: ignore[untyped-decorator]
        async def start(self) -> None:
            worker.openapi = json.dumps(
                openapi(service.openapi_spec.asdict(), request, response, worker.bundle.version)
            ).encode()
            await worker.start()

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def stop(self) -> None:
            await worker.stop()

        async def __is_ready__(self) -> bool:
            return worker.readiness.ready

        @bentoml.api  # type: ignore[untyped-decorator]
        async def predict(self, rows: rows, request_id: str | None = None) -> response:  # type: ignore[valid-type]
            """Score rows. Declares the types; HTTP requests are answered by :class:`~asof.serving.asgi.PredictionMiddleware`."""
            listed = [row.model_dump(mode="json") for row in rows]  # type: ignore[attr-defined]
            payload = {"rows": listed, "request_id": request_id}
            entry = await asyncio.wait_for(worker.handle(payload, uuid.uuid4().hex), worker.limits.timeout)
            return response.model_validate(response_body(worker.bundle, entry))

    service: Any = Predictions
    return service
