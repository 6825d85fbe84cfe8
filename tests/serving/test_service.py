"""The service inside one process: BentoML's application with our middleware, the store answering from memory."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from asof import prediction_log
from asof.bundle import Bundle
from asof.contract import Contract, on_demand
from asof.errors import ContractError
from asof.online import AsyncReader, Writer
from asof.serving.limits import Limits
from asof.serving.readiness import Readiness
from tests.serving.doubles import UnreliableStore
from tests.serving.inside import AT, ROW, error, get, post, run

pytestmark = [
    pytest.mark.usefixtures("unreliable_store", "limits"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's own, about its libraries
]


def test_a_row_is_scored_as_lightgbm_scores_its_vector(folder: Path) -> None:
    """The score is LightGBM's own for the vector of stored and computed features."""
    import lightgbm as lgb
    import numpy as np

    found = post(folder).json()["predictions"][0]
    vector = np.array([[3.0, 4.0, 9.0, 5.0, 1.0, 2.0, 13.0]])
    expected = float(np.asarray(lgb.Booster(model_file=str(folder / "bundle" / "model.txt")).predict(vector))[0])
    assert found["score"] == expected
    assert found["decision"] == (expected >= 0.5)


def test_an_answer_says_who_gave_it_and_what_was_missing(folder: Path) -> None:
    """Each row has its request id, model version, and the features that were missing or stale."""
    rows = [ROW, {**ROW, "machine_id": 99}, {**ROW, "site": "old"}, {**ROW, "machine_id": None, "load": None}]
    answer = post(folder, {"rows": rows, "request_id": "abc"})
    known, unknown, old, null = answer.json()["predictions"]
    assert (known["request_id"], known["model"], known["model_version"]) == ("abc", "breakdown", "v1")
    assert (known["missing"], known["stale"]) == ([], [])
    assert unknown["missing"] == ["load_count_1d", "load_mean_1d", "load_max_7d", "ratio"]
    assert (old["missing"], old["stale"]) == ([], ["crew", "grade", "open"])
    assert set(null["missing"]) == set(unknown["missing"])
    assert answer.headers["x-request-id"] == "abc"


def test_an_answer_says_what_was_not_kept(folder: Path, contract: Contract, unreliable_store: UnreliableStore) -> None:
    """After a materialization for a later moment the answer lists what was withheld, apart from what is missing."""
    writer = Writer(contract.project, unreliable_store.memory)
    windowed = next(v for v in contract.views if v.windowed)
    writer.materializing(windowed, AT + 90 * 86_400_000_000)
    found = post(folder).json()["predictions"][0]
    assert found["not_kept"] == [n for n in contract.feature_names if n.startswith("load_")]
    assert found["missing"] == ["ratio"]


def test_every_prediction_is_logged(folder: Path, contract: Contract) -> None:
    """The log holds the keys, the request, the vector, statuses, score, model and moment of each row."""
    answer = post(folder, {"rows": [ROW, {**ROW, "site": "old"}], "request_id": "abc"}).json()["predictions"]
    log = folder.parent / "repo" / "data" / "predictions"
    found = pa.concat_tables(prediction_log.scan(log, "breakdown", AT, AT + 1))
    assert found.schema == prediction_log.schema(contract)
    assert found["score"].to_pylist() == [p["score"] for p in answer]
    assert found["request_id"].to_pylist() == ["abc", "abc"]
    assert found["row"].to_pylist() == [0, 1]
    assert found["key.site"].to_pylist() == ["north", "old"]
    assert found["request.load"].to_pylist() == [8.0, 8.0]
    assert found["feature.ratio"].to_pylist() == [2.0, 2.0]
    assert found["feature.grade"].to_pylist() == ["A", None]
    assert found["status.crew"].to_pylist() == [0, 2]
    assert found["model_version"].to_pylist() == ["v1", "v1"]


def test_a_request_without_an_id_gets_one(folder: Path) -> None:
    """The header's id is used, and without one an id is made."""
    assert post(folder, headers={"x-request-id": "from-header"}).json()["predictions"][0]["request_id"] == "from-header"
    assert len(post(folder).json()["predictions"][0]["request_id"]) == 32


def test_openapi_names_every_field_with_its_type(folder: Path, contract: Contract) -> None:
    """The page describes keys, request fields, answers and errors as they are."""
    document = get(folder, "/docs.json").json()
    schemas = document["components"]["schemas"]
    row = schemas["Row"]["properties"]
    assert list(row) == [f.name for f in (*contract.keys, *contract.request_fields)]
    assert row["machine_id"]["anyOf"][0]["type"] == "integer"
    assert row["site"]["anyOf"][0]["type"] == "string"
    assert row["load"]["anyOf"] == [{"type": "number"}, {"type": "null"}]
    assert row["read_at"]["format"] == "date-time"
    assert set(schemas["Row"]["required"]) == set(row)
    assert set(schemas["Prediction"]["properties"]) == set(post(folder).json()["predictions"][0])
    assert set(schemas["ErrorBody"]["properties"]) == {"code", "message", "problems", "request_id"}
    assert set(document["paths"]["/predict"]["post"]["responses"]) == {"200", "400", "413", "415", "500", "503"}
    assert {"/livez", "/readyz", "/metrics"} <= set(document["paths"])


def test_metrics_count_requests_rows_and_the_log(folder: Path) -> None:
    """The counters tell what was asked, and no path that a client invents becomes a label."""

    async def work(client: httpx.AsyncClient) -> str:
        await client.post("/predict", json={"rows": [ROW, ROW]})
        await client.post("/predict", json={"rows": []})
        await client.get("/invented-path")
        for _ in range(100):
            text = (await client.get("/metrics")).text
            if 'asof_prediction_log_rows_total{outcome="written"} 2.0' in text:
                return text
            await asyncio.sleep(0.02)
        return text

    text = run(folder, work)
    assert 'asof_service_requests_total{endpoint="/predict",status="200"} 1.0' in text
    assert 'asof_service_requests_total{endpoint="/predict",status="400"} 1.0' in text
    assert "asof_service_rows_total 2.0" in text
    assert 'asof_prediction_log_rows_total{outcome="dropped"} 0.0' in text
    assert "invented" not in text


def test_bentoml_declares_the_same_types(folder: Path, contract: Contract) -> None:
    """BentoML's own description of ``predict``, which its clients read, has the fields of the contract."""
    schema = get(folder, "/schema.json").json()
    route = next(r for r in schema["routes"] if r["route"] == "/predict")
    fields = route["input"]["properties"]["rows"]["items"]["properties"]
    assert list(fields) == [f.name for f in (*contract.keys, *contract.request_fields)]


def test_bundles_are_read_once(folder: Path) -> None:
    """The bundle in a built service is a whole one."""
    assert Bundle.open(folder / "bundle").model == "breakdown"


def test_requests_that_wait_are_answered_together(
    folder: Path, unreliable_store: UnreliableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that arrive during a read share the next read, and each gets its own answer and log rows."""
    unreliable_store.delay = 0.1
    reads: list[int] = []
    real = AsyncReader.read

    async def counted(self: AsyncReader, keys: Any, at: Any) -> Any:
        reads.append(len(at))
        return await real(self, keys, at)

    monkeypatch.setattr(AsyncReader, "read", counted)
    machines_asked = [1, 99, None, 1, 7, 1]

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        asked = [[{**ROW, "machine_id": m}, ROW] for m in machines_asked]
        posts = [client.post("/predict", json={"rows": rows, "request_id": f"r{i}"}) for i, rows in enumerate(asked)]
        return await asyncio.gather(*posts)

    answers = [a.json()["predictions"] for a in run(folder, work)]
    assert sum(reads) == 12
    assert len(reads) <= 2
    for number, (first, second) in enumerate(answers):
        assert (first["request_id"], second["row"]) == (f"r{number}", 1)
        assert bool(first["missing"]) == (machines_asked[number] != 1)
        assert second["missing"] == []
    log = folder.parent / "repo" / "data" / "predictions"
    found = pa.concat_tables(prediction_log.scan(log, "breakdown", AT, AT + 1, ["request_id", "row", "key.machine_id"]))
    logged = {(r["request_id"], r["row"]): r["key.machine_id"] for r in found.to_pylist()}
    assert logged == {(f"r{i}", row): [m, 1][row] for i, m in enumerate(machines_asked) for row in (0, 1)}


def test_a_row_that_a_function_cannot_take_costs_no_other_its_answer(
    folder: Path, unreliable_store: UnreliableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing row in a batch fails only its own request."""
    unreliable_store.delay = 0.1
    compute = on_demand.compute_view

    def failing(view: Any, columns: Any) -> Any:
        if 13.0 in columns["load"]:
            raise ContractError("on-demand function context failed: ZeroDivisionError")
        return compute(view, columns)

    monkeypatch.setattr(on_demand, "compute_view", failing)

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        loads = [1.0, 2.0, 13.0, 4.0]
        return await asyncio.gather(*(client.post("/predict", json={"rows": [{**ROW, "load": x}]}) for x in loads))

    assert [a.status_code for a in run(folder, work)] == [200, 200, 500, 200]


@pytest.mark.parametrize("folder", ["timeless"], indirect=True)
def test_rows_without_a_moment_are_scored_for_that_of_their_request(folder: Path) -> None:
    """A model whose rows have no moment takes one for the whole request, by default now."""
    then = post(folder, {"rows": [ROW], "at": "2024-05-01T13:30:00Z"}).json()["predictions"][0]
    now = post(folder, {"rows": [ROW]}).json()["predictions"][0]
    wrong = post(folder, {"rows": [ROW], "at": "soon"})
    assert then["missing"] == []
    assert set(now["missing"]) == {"load_mean_1d", "load_max_7d", "ratio"}
    assert (wrong.status_code, error(wrong)["problems"][0]["field"]) == (400, "at")
    schemas = get(folder, "/docs.json").json()["components"]["schemas"]
    assert "at" in schemas["PredictRequest"]["properties"]


def test_rows_with_a_moment_take_none_beside_them(folder: Path) -> None:
    """A moment for the request is refused if rows have their own."""
    answer = post(folder, {"rows": [ROW], "at": "2024-05-01T13:30:00Z"})
    assert (answer.status_code, error(answer)["problems"][0]["field"]) == (400, "at")


def test_bentoml_code_gets_the_same_answer(folder: Path) -> None:
    """The declared method, called from Python as another BentoML service would, says what HTTP says."""
    from bentoml import get_current_service

    async def work(client: httpx.AsyncClient) -> tuple[Any, Any]:
        service = get_current_service()
        declared = type(service).predict
        row = declared.input_spec.model_fields["rows"].annotation.__args__[0]
        local = await service.predict.local(rows=[row(**ROW)], request_id="same")
        return local.model_dump(), (await client.post("/predict", json={"rows": [ROW], "request_id": "same"})).json()

    local, remote = run(folder, work)
    assert local == remote


def test_a_worker_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not stop in time writes its log and exits."""
    told: list[str] = []
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: told.append("stop"))

    def leave(code: int) -> None:
        told.append(f"exit {code}")
        ended.set()

    monkeypatch.setattr(os, "_exit", leave)
    try:
        readiness = Readiness(Limits(drain=0.05, shutdown=0.1), reason=None)
        readiness.drain_on_termination(lambda: told.append("log"))
        signal.raise_signal(signal.SIGTERM)
        assert (readiness.ready, readiness.message) == (False, "the service is stopping")
        assert ended.wait(10)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert told == ["stop", "log", "exit 1"]
