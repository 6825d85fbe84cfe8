"""The errors of the service when a request, the store, a function or the disk fails."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asof.contract import on_demand
from asof.errors import BundleError, RequestError
from asof.online import Writer
from tests.serving.contracts import machines
from tests.serving.doubles import UnreliableStore
from tests.serving.inside import ROW, error, get, post, run

pytestmark = [
    pytest.mark.usefixtures("unreliable_store", "limits"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's own, about its libraries
]


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
    """A body that is not a request and a request with wrong rows give different errors."""
    answer = post(folder, content=content)
    assert (answer.status_code, error(answer)["code"]) == (400, code)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/predict", 405), ("PUT", "/predict", 405), ("DELETE", "/readyz", 405)],
)
def test_errors_of_the_framework_have_our_shape(folder: Path, method: str, path: str, status: int) -> None:
    """404 and 405 have the same error shape as everything else."""
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


def test_the_store_going_away_is_a_503_and_coming_back_a_200(folder: Path, unreliable_store: UnreliableStore) -> None:
    """While Redis is unreachable, predictions and readiness give 503 with the reason, and both recover by themselves."""

    async def until(client: httpx.AsyncClient, status: int) -> httpx.Response:
        for _ in range(200):
            answer = await client.get("/readyz")
            if answer.status_code == status:
                return answer
            await asyncio.sleep(0.02)
        pytest.fail(f"readyz never said {status}")

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        unreliable_store.down = True
        middle = await client.post("/predict", json={"rows": [ROW]})
        unready = await until(client, 503)
        down = await client.post("/predict", json={"rows": [ROW]})
        unreliable_store.down = False
        await until(client, 200)
        return [middle, unready, down, await client.post("/predict", json={"rows": [ROW]})]

    *away, back = run(folder, work)
    for answer in away:
        assert (answer.status_code, error(answer)["code"], answer.headers["retry-after"]) == (503, "not_ready", "1")
        assert "Redis at test does not answer" in error(answer)["message"]
    assert back.status_code == 200


def test_a_service_starts_without_the_store(folder: Path, unreliable_store: UnreliableStore) -> None:
    """With Redis down at start the service is alive and not ready."""
    unreliable_store.down = True

    async def work(client: httpx.AsyncClient) -> tuple[int, int]:
        return (await client.get("/livez")).status_code, (await client.get("/readyz")).status_code

    assert run(folder, work) == (200, 503)


def test_a_store_that_does_not_fit_is_named(folder: Path, unreliable_store: UnreliableStore) -> None:
    """When the applied views differ from the contract, nothing is scored and the feature is named."""
    changed = machines().view("site_state")
    crew = [dataclasses.replace(f, dtype="string") if f.name == "crew" else f for f in changed.features]
    Writer("machines", unreliable_store.memory).register([dataclasses.replace(changed, features=tuple(crew))])
    answer = get(folder, "/readyz")
    assert (answer.status_code, "site_state:crew" in error(answer)["message"]) == (503, True)
    assert "site_state:crew" in error(post(folder))["message"]


def test_too_many_requests_at_once_are_told_to_come_back(
    folder: Path, unreliable_store: UnreliableStore, limits: Callable[..., None]
) -> None:
    """Beyond the limit a request is a 503 with Retry-After, and the others are answered."""
    limits(max_in_flight=2, check_every=0.05)
    unreliable_store.delay = 0.3

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post("/predict", json={"rows": [ROW]}) for _ in range(5)))

    answers = run(folder, work)
    assert sorted(a.status_code for a in answers) == [200, 200, 503, 503, 503]
    refused = [a for a in answers if a.status_code == 503]
    assert {error(a)["code"] for a in refused} == {"overloaded"}
    assert {a.headers["retry-after"] for a in refused} == {"1"}


def test_a_slow_store_is_a_timeout_in_our_shape(
    folder: Path, unreliable_store: UnreliableStore, limits: Callable[..., None]
) -> None:
    """A request that takes too long is answered in time."""
    limits(timeout=0.2, check_every=0.05)
    unreliable_store.delay = 30.0
    answer = post(folder)
    assert (answer.status_code, error(answer)["code"]) == (503, "timeout")


def test_a_failing_function_is_a_500_without_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in a user's function is reported by its type; neither the answer nor the log contains a value of the request."""

    def failing(_inputs: Any) -> Any:
        raise RuntimeError("load is 8.125")

    monkeypatch.setattr(on_demand, "load", lambda _name: failing)
    answer = post(folder, {"rows": [{**ROW, "load": 8.125}]})
    assert (answer.status_code, error(answer)["code"]) == (500, "internal")
    assert "RuntimeError" in error(answer)["message"]
    assert "8.125" not in answer.text + caplog.text


def test_an_unforeseen_failure_is_a_500_without_values(
    folder: Path, unreliable_store: UnreliableStore, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error is a 500 at once, and its message appears neither in the answer nor in the log."""
    unreliable_store.failure = KeyError("north")
    answer = post(folder)
    assert (answer.status_code, error(answer)["code"]) == (500, "internal")
    assert "north" not in answer.text + caplog.text


def test_bad_values_are_not_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong value of a request reaches no log line."""
    caplog.set_level("DEBUG")
    post(folder, {"rows": [{**ROW, "load": "secret-4711"}]})
    assert "4711" not in caplog.text


def test_a_changed_bundle_is_refused(folder: Path) -> None:
    """A file of the model that was changed after training keeps the service from starting."""
    (folder / "bundle" / "contract.json").write_text("{}")
    with pytest.raises(BundleError, match="changed after training"):
        run(folder, lambda client: client.get("/livez"))


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
    """If the log cannot be written, requests are still answered, the metrics count failed and dropped rows, and one line reports it."""
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


def test_a_key_that_the_store_cannot_take_is_a_wrong_row(folder: Path, unreliable_store: UnreliableStore) -> None:
    """A row that only the store can reject is a 400 like any other."""
    unreliable_store.failure = RequestError(None, "site", "does not fit")
    answer = post(folder)
    assert (answer.status_code, error(answer)["problems"][0]["field"]) == (400, "site")
