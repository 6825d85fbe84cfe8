"""The service inside one process: BentoML's application with our front, the store answering from memory."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asof import on_demand, prediction_log
from asof.bundle import Bundle
from asof.contract import Contract
from asof.errors import BundleError, ContractError, RequestError
from asof.online import AsyncReader, Writer
from asof.settings import RepoSettings
from serving import deployment, worker
from serving.limits import Limits
from serving.readiness import Readiness
from serving.store import Store
from tests.serving import bundles
from tests.serving.contracts import machines
from tests.serving.doubles import Wayward

ROW = {"machine_id": 1, "site": "north", "load": 8.0, "read_at": "2024-05-01T13:30:00Z"}
AT = 1_714_570_200_000_000


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, contract: Contract, functions: str) -> Path:
    """What a Bento of the machines model holds, and the repo it was built in; ``timeless``: its rows carry no moment."""
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text("project: machines\nonline_store: {type: asof.online.RedisOnlineStore}\n")
    built = tmp_path / "built"
    timeless = getattr(request, "param", None) == "timeless"
    bundles.write(tmp_path / "models", contract, functions, event_time=not timeless)
    built.mkdir()
    (tmp_path / "models" / "breakdown" / "v1").rename(built / "bundle")
    deployment.write(built, RepoSettings.load(repo))
    return built


@pytest.fixture
def wayward(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> Wayward:
    """The store in memory, in the place of Redis."""
    made = Wayward(contract)
    connect = functools.partial(Store, connect=lambda known, _settings: AsyncReader(known, made))
    monkeypatch.setattr(worker, "Store", connect)
    return made


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets limits for the services made after."""

    def set_limits(**changed: float) -> None:
        monkeypatch.setattr(Limits, "from_environment", lambda: Limits(**changed))  # type: ignore[arg-type]

    set_limits(log_seconds=0.05, check_every=0.05)
    return set_limits


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that has started."""
    from serving.service import make

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


pytestmark = [
    pytest.mark.usefixtures("wayward", "limits"),
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


def error(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, after checking its shape."""
    payload: dict[str, Any] = answer.json()["error"]
    assert set(payload) == {"code", "message", "problems", "request_id"}
    assert "\n" not in payload["message"]
    return payload


def test_bad_rows_are_named(folder: Path) -> None:
    """A wrong row is a 400 that names the row and the field."""
    answer = post(folder, {"rows": [ROW, {**ROW, "load": "x"}], "request_id": "abc"})
    assert answer.status_code == 400
    assert error(answer)["problems"] == [{"row": 1, "field": "load", "problem": "expected a finite number"}]
    assert error(answer)["request_id"] == "abc"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"rows": [NaN]}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"rows": ' + b"9" * 10_000 + b"}", "invalid_json"),
        (b"[]", "invalid_rows"),
        (b'"rows"', "invalid_rows"),
        (b'{"rows": []}', "invalid_rows"),
        (b'{"rows": [{}], "extra": 1}', "invalid_rows"),
        (b'{"rows": [{}], "request_id": 7}', "invalid_rows"),
        (b'{"rows": [{}], "request_id": ""}', "invalid_rows"),
    ],
)
def test_rubbish_is_a_400_with_a_code(folder: Path, content: bytes, code: str) -> None:
    """A body that is no request is told apart from one with wrong rows."""
    answer = post(folder, content=content)
    assert (answer.status_code, error(answer)["code"]) == (400, code)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/predict", 405), ("PUT", "/predict", 405), ("DELETE", "/readyz", 405)],
)
def test_errors_of_the_framework_have_our_shape(folder: Path, method: str, path: str, status: int) -> None:
    """404 and 405 are told as everything else is."""
    answer = get(folder, path, method)
    assert answer.status_code == status
    assert error(answer)["code"] in {"not_found", "method_not_allowed"}


def test_another_content_type_is_refused(folder: Path) -> None:
    """A form is a 415, not a guess."""
    answer = post(folder, headers={"content-type": "application/x-www-form-urlencoded"})
    assert (answer.status_code, error(answer)["code"]) == (415, "unsupported_media_type")


def test_large_requests_are_refused(folder: Path, limits: Callable[..., None]) -> None:
    """Too many bytes and too many rows are both a 413."""
    limits(max_body=300, max_rows=2)
    assert post(folder, content=b" " * 301).status_code == 413
    assert post(folder, {"rows": [{}, {}, {}]}).status_code == 413
    assert post(folder).status_code == 200


def test_the_store_going_away_is_a_503_and_coming_back_a_200(folder: Path, wayward: Wayward) -> None:
    """While Redis is away predictions and readiness say 503 with the reason, and both recover by themselves."""

    async def until(client: httpx.AsyncClient, status: int) -> httpx.Response:
        for _ in range(200):
            answer = await client.get("/readyz")
            if answer.status_code == status:
                return answer
            await asyncio.sleep(0.02)
        pytest.fail(f"readyz never said {status}")

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        wayward.down = True
        middle = await client.post("/predict", json={"rows": [ROW]})
        unready = await until(client, 503)
        down = await client.post("/predict", json={"rows": [ROW]})
        wayward.down = False
        await until(client, 200)
        return [middle, unready, down, await client.post("/predict", json={"rows": [ROW]})]

    *away, back = run(folder, work)
    for answer in away:
        assert (answer.status_code, error(answer)["code"], answer.headers["retry-after"]) == (503, "not_ready", "1")
        assert "Redis at test does not answer" in error(answer)["message"]
    assert back.status_code == 200


def test_a_service_starts_without_the_store(folder: Path, wayward: Wayward) -> None:
    """With Redis down at start the service is alive and not ready."""
    wayward.down = True

    async def work(client: httpx.AsyncClient) -> tuple[int, int]:
        return (await client.get("/livez")).status_code, (await client.get("/readyz")).status_code

    assert run(folder, work) == (200, 503)


def test_a_store_that_does_not_fit_is_named(folder: Path, wayward: Wayward) -> None:
    """When what is applied differs from the contract nothing is scored and the feature is named."""
    changed = machines().view("site_state")
    crew = [dataclasses.replace(f, dtype="string") if f.name == "crew" else f for f in changed.features]
    Writer("machines", wayward.memory).register([dataclasses.replace(changed, features=tuple(crew))])
    answer = get(folder, "/readyz")
    assert (answer.status_code, "site_state:crew" in error(answer)["message"]) == (503, True)
    assert "site_state:crew" in error(post(folder))["message"]


def test_too_many_requests_at_once_are_told_to_come_back(
    folder: Path, wayward: Wayward, limits: Callable[..., None]
) -> None:
    """Beyond the limit a request is a 503 with Retry-After, and the others are answered."""
    limits(max_in_flight=2, check_every=0.05)
    wayward.delay = 0.3

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post("/predict", json={"rows": [ROW]}) for _ in range(5)))

    answers = run(folder, work)
    assert sorted(a.status_code for a in answers) == [200, 200, 503, 503, 503]
    refused = [a for a in answers if a.status_code == 503]
    assert {error(a)["code"] for a in refused} == {"overloaded"}
    assert {a.headers["retry-after"] for a in refused} == {"1"}


def test_a_slow_store_is_a_timeout_in_our_shape(folder: Path, wayward: Wayward, limits: Callable[..., None]) -> None:
    """A request that takes too long is answered in time."""
    limits(timeout=0.2, check_every=0.05)
    wayward.delay = 30.0
    answer = post(folder)
    assert (answer.status_code, error(answer)["code"]) == (503, "timeout")


def test_a_failing_function_is_a_500_without_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a user's function raises is told by type; neither the answer nor the log repeats a value of the request."""

    def failing(_inputs: Any) -> Any:
        raise RuntimeError("load is 8.125")

    monkeypatch.setattr(on_demand, "load", lambda _name: failing)
    answer = post(folder, {"rows": [{**ROW, "load": 8.125}]})
    assert (answer.status_code, error(answer)["code"]) == (500, "internal")
    assert "RuntimeError" in error(answer)["message"]
    assert "8.125" not in answer.text + caplog.text


def test_an_unforeseen_failure_is_a_500_without_values(
    folder: Path, wayward: Wayward, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is told as one, at once, and its message stays out of answer and log."""
    wayward.failure = KeyError("north")
    answer = post(folder)
    assert (answer.status_code, error(answer)["code"]) == (500, "internal")
    assert "north" not in answer.text + caplog.text


def test_bad_values_are_not_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong value of a request reaches no log line."""
    caplog.set_level("DEBUG")
    post(folder, {"rows": [{**ROW, "load": "secret-4711"}]})
    assert "4711" not in caplog.text


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


def test_a_changed_bundle_is_refused(folder: Path) -> None:
    """A file of the model that was changed after training keeps the service from starting."""
    (folder / "bundle" / "contract.json").write_text("{}")
    with pytest.raises(BundleError, match="changed after training"):
        run(folder, lambda client: client.get("/livez"))


def test_bundles_are_read_once(folder: Path) -> None:
    """The bundle in a built service is a whole one."""
    assert Bundle.open(folder / "bundle").model == "breakdown"


def test_requests_that_wait_are_answered_together(
    folder: Path, wayward: Wayward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one request is read for, those that arrive share the next read, and each gets its own answer and log rows."""
    wayward.delay = 0.1
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
    folder: Path, wayward: Wayward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answered together with others, a failing row fails alone."""
    wayward.delay = 0.1
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
    """A model whose rows carry no moment is asked for one beside the rows, or for now."""
    then = post(folder, {"rows": [ROW], "at": "2024-05-01T13:30:00Z"}).json()["predictions"][0]
    now = post(folder, {"rows": [ROW]}).json()["predictions"][0]
    wrong = post(folder, {"rows": [ROW], "at": "soon"})
    assert then["missing"] == []
    assert set(now["missing"]) == {"load_mean_1d", "load_max_7d", "ratio"}
    assert (wrong.status_code, error(wrong)["problems"][0]["field"]) == (400, "at")
    schemas = get(folder, "/docs.json").json()["components"]["schemas"]
    assert "at" in schemas["PredictRequest"]["properties"]


def test_rows_with_a_moment_take_none_beside_them(folder: Path) -> None:
    """Two moments for one row would be one too many."""
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
    """After its time a worker that was told to stop writes its log and goes."""
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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ROW, "rows", "request_id"]), inner),
    max_leaves=10,
)


def test_nothing_that_is_sent_breaks_the_service(folder: Path) -> None:
    """Whatever bytes, JSON or nearly right rows come, the answer is a prediction or a problem in our shape."""
    bodies: list[bytes] = []

    @settings(max_examples=150, database=None)
    @given(
        st.binary(max_size=40)
        | JSON.map(lambda value: json.dumps(value).encode())
        | st.dictionaries(st.sampled_from([*ROW]), JSON).map(
            lambda row: json.dumps({"rows": [{**ROW, **row}]}).encode()
        )
    )
    def collect(body: bytes) -> None:
        bodies.append(body)

    collect()

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {"content-type": "application/json"}
        return [await client.post("/predict", content=body, headers=headers) for body in bodies]

    answers = run(folder, work)
    assert {a.status_code for a in answers} <= {200, 400}
    assert all(set(error(a)) for a in answers if a.status_code == 400)


def test_a_log_that_cannot_be_written_stops_no_answer_and_is_visible(
    folder: Path, limits: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """With no place for the log, answers go on, the metrics count what failed and was dropped, and the log says so once."""
    limits(log_seconds=0.05, log_rows=3)
    (folder.parent / "repo" / "data").mkdir()
    (folder.parent / "repo" / "data" / "predictions").write_text("a file where the folder should be")

    async def work(client: httpx.AsyncClient) -> tuple[list[int], str]:
        codes = [(await client.post("/predict", json={"rows": [ROW]})).status_code for _ in range(5)]
        await asyncio.sleep(0.3)
        return codes, (await client.get("/metrics")).text

    codes, text = run(folder, work)
    assert codes == [200] * 5
    assert 'asof_prediction_log_rows_total{outcome="dropped"} 2.0' in text
    assert 'asof_prediction_log_rows_total{outcome="failed"} 0.0' not in text
    assert caplog.text.count("cannot write to") == 1


def test_a_key_that_the_store_cannot_take_is_a_wrong_row(folder: Path, wayward: Wayward) -> None:
    """What only the store can tell of a row is a 400 like any other."""
    wayward.failure = RequestError(None, "site", "does not fit")
    answer = post(folder)
    assert (answer.status_code, error(answer)["problems"][0]["field"]) == (400, "site")
