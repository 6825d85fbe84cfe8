"""The BentoML service of a bundle.

:func:`make` is called by the entry module of a Bento (see :mod:`serving.build`), in the process that watches the workers and
again in each worker, so it reads the contract and nothing heavier; the model is loaded when a worker starts.
"""

# No `from __future__ import annotations` here: BentoML reads the types of `predict` from its annotations, and they are
# values made from the contract.

import asyncio
import json
import os
import uuid
from pathlib import Path
from typing import Any

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # before BentoML is imported: it asks once

import bentoml

from asof.bundle import Bundle
from serving.api_types import Answer, openapi, request_type
from serving.asgi import Front
from serving.deployment import Deployment
from serving.limits import Limits
from serving.predictor import answer
from serving.worker import Worker

BUNDLE = "bundle"
"""Folder of the model in a built service."""


def make(folder: Path) -> Any:
    """The service built in ``folder``.

    Args:
        folder: Holds the bundle and what :func:`serving.deployment.write` wrote.

    Returns:
        A ``bentoml.Service``, named as the model.

    Raises:
        BundleError: The bundle is unfinished or damaged.
        SettingsError: The surroundings are not what they should be.
    """
    bundle = Bundle.open(folder / BUNDLE)
    limits = Limits.from_environment()
    worker = Worker(bundle, Deployment.load(folder), limits)
    service = _declare(worker)
    service.add_asgi_middleware(Front, worker=worker)
    return service


def _declare(worker: Worker) -> Any:
    contract, event_time = worker.bundle.contract, worker.parser.event_time
    request = request_type(contract, event_time, worker.limits.max_rows)
    rows = request.model_fields["rows"].annotation

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
            worker.openapi = json.dumps(openapi(service.openapi_spec.asdict(), request, worker.bundle.version)).encode()
            await worker.start()

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def stop(self) -> None:
            await worker.stop()

        async def __is_ready__(self) -> bool:
            return worker.readiness.ready

        @bentoml.api  # type: ignore[untyped-decorator]
        async def predict(self, rows: rows, request_id: str | None = None) -> Answer:  # type: ignore[valid-type]
            """Score rows. Over HTTP :class:`~serving.asgi.Front` answers; this declares the types."""
            listed = [row.model_dump(mode="json") for row in rows]  # type: ignore[attr-defined]
            payload = {"rows": listed, "request_id": request_id}
            entry = await asyncio.wait_for(worker.predict(payload, uuid.uuid4().hex), worker.limits.timeout)
            return Answer.model_validate(answer(worker.bundle, entry))

    service: Any = Predictions
    return service
