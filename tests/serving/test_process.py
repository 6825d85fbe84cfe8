"""Services built by ``asof build`` and served by BentoML in real processes, with a real Redis."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa

from asof import prediction_log
from asof.online.redis.server import EmbeddedRedis, find_server
from asof.serving.build import find
from asof.settings import RepoSettings
from tests.serving.processes import (
    AT,
    ROW,
    STORE,
    Service,
    asof,
    environment,
    free_port,
    running,
    serving,
)  # fmt: skip

LAZY = ("feast", "pandas", "whylogs", "lightgbm", "sklearn", "scipy", "polars", "duckdb")

START = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import asof_bento

async def main():
    app = asof_bento.service.to_asgi()
    async with app.router.lifespan_context(app):
        import httpx
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service") as client:
            answer = await client.post("/predict", json={"rows": [ROW]})
            print(answer.status_code)
            await client.get("/metrics")
    print(*(name for name in LAZY if name in sys.modules))
    print(sys.modules["asof"].__file__)
    print(*sorted({name.partition(".")[0] for name in sys.modules}))

asyncio.run(main())
"""


def test_a_served_row_is_scored_and_logged(service: Service) -> None:
    """A request over HTTP is answered, and its row is in the prediction log soon after."""
    status, answer, headers = service.predict(request_id="served")
    assert (status, headers["x-request-id"]) == (200, "served")
    assert answer["predictions"][0]["missing"] == []
    service.until(lambda: "served" in service.logged()["request_id"].to_pylist())


def test_a_key_that_redis_does_not_know_is_scored(service: Service) -> None:
    """Unknown keys get a score, and all their features are listed as missing."""
    _, answer, _ = service.predict({**ROW, "machine_id": 404, "site": "nowhere"})
    assert set(answer["predictions"][0]["missing"]) == {
        "load_count_1d", "load_mean_1d", "load_max_7d", "crew", "grade", "open", "ratio",
    }  # fmt: skip


def test_what_happens_after_the_moment_does_not_count(service: Service) -> None:
    """A row scored for an earlier moment sees only what was known then."""
    _, answer, _ = service.predict({**ROW, "read_at": "2024-04-29T00:00:00Z"})
    assert "load_mean_1d" in answer["predictions"][0]["missing"]


def test_the_largest_batch_is_answered(service: Service) -> None:
    """A thousand rows come back in their order."""
    status, answer, _ = service.predict(*({**ROW, "machine_id": i} for i in range(1_000)))
    assert (status, [p["row"] for p in answer["predictions"]]) == (200, list(range(1_000)))
    assert [p["row"] for p in answer["predictions"] if not p["missing"]] == [1]


def test_bentoml_endpoints_work(service: Service) -> None:
    """Liveness, readiness, metrics, the OpenAPI document and the page that shows it are there."""
    for path in ("/livez", "/readyz", "/metrics", "/docs.json", "/schema.json", "/"):
        assert service.ask(path)[0] == 200, path


def test_the_service_says_that_it_is_ready_and_where(service: Service) -> None:
    """`asof serve` ends its start with the address, once the service is ready."""
    said = service.log.read_text().splitlines()
    assert any(line.startswith("starting breakdown:") for line in said)
    assert any(line.endswith(f"ready at {service.url}") for line in said)


def test_bentomls_client_works(service: Service) -> None:
    """BentoML's own client reads the declared types and gets the answer."""
    script = f"import bentoml, json; print(json.dumps(bentoml.SyncHTTPClient({service.url!r}).predict(rows=[{ROW!r}])))"
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment(BENTOML_DO_NOT_TRACK="True"), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert json.loads(answer.stdout)["predictions"][0]["missing"] == [], answer.stderr


def test_redis_ending_is_told_and_survived(service: Service) -> None:
    """When the repo's Redis is killed, answers are 503 with the reason, and the service starts Redis again."""
    status = EmbeddedRedis(service.settings.online.folder).status()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    code, answer, headers = service.predict()
    assert (code, answer["error"]["code"], headers["retry-after"]) == (503, "not_ready", "1")
    assert "Redis" in answer["error"]["message"]
    service.until(lambda: service.predict()[0] == 200)
    assert service.predict()[1]["predictions"][0]["missing"] == []


def test_a_killed_worker_is_replaced(service: Service) -> None:
    """A worker that dies is started again, and requests in between wait for it."""
    service.predict(request_id="before")
    (worker,) = service.workers()
    service.until(lambda: "before" in service.logged()["request_id"].to_pylist())
    worker.kill()
    assert service.predict(request_id="after")[0] == 200
    service.until(lambda: "after" in service.logged()["request_id"].to_pylist())
    assert service.workers()[0].pid != worker.pid


def test_the_port_of_another_is_refused(service: Service) -> None:
    """A port in use is one line and an exit code, not a traceback."""
    refused = asof(service.settings.path, "serve", "breakdown", "--port", str(service.port))
    assert (refused.returncode, "choose another" in refused.stderr) == (2, True)


def test_a_second_service_lives_beside_the_first(service: Service, tmp_path: Path) -> None:
    """Two services of one repo answer and keep their metrics apart; killed, one leaves all but its last rows in the log."""
    service.predict()
    with serving(service.settings, tmp_path / "log.txt", "--workers", "2", ASOF_SERVE_LOG_SECONDS="0.5") as second:
        second.until_ready()
        assert len(second.workers()) == 2
        answered = {}
        for number in range(40):
            assert second.predict(request_id=f"killed-{number}")[0] == 200
            answered[f"killed-{number}"] = time.monotonic()
            time.sleep(0.05)
        assert "asof_service_rows_total 40.0" in second.ask("/metrics")[1]
        killed = time.monotonic()
        for worker in second.workers():
            worker.kill()
        logged = [i for i in second.logged()["request_id"].to_pylist() if i in answered]
    due = {request_id for request_id, moment in answered.items() if killed - moment > 1.5}
    assert due
    assert due <= set(logged)
    assert len(set(logged)) == len(logged)
    rows = re.search(r"asof_service_rows_total ([\d.]+)", service.ask("/metrics")[1])
    assert rows is not None
    assert float(rows[1]) >= 1.0


def test_bentoml_itself_serves_the_bento(settings: RepoSettings, tmp_path: Path) -> None:
    """``bentoml serve`` serves by tag; told to stop it drains, and every row is in the log that the environment names."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "breakdown:v1", "--port", str(port), "--host", "127.0.0.1"]
    changed = {
        "BENTOML_HOME": str(settings.data / "bentoml"),
        "ASOF_PREDICTIONS": str(tmp_path / "elsewhere"),
        "ASOF_SERVE_DRAIN": "2",
        "ASOF_SERVE_LOG_SECONDS": "600",
    }
    with running(command, settings, tmp_path / "log.txt", port, **changed) as one:
        one.until_ready()
        for number in range(20):
            assert one.predict(request_id=f"drained-{number}")[0] == 200
        one.process.send_signal(signal.SIGTERM)
        one.until_ready(503)
        assert one.predict(request_id="drained-20")[0] == 200
        assert one.process.wait(30) == 0
    logged = pa.concat_tables(prediction_log.scan(tmp_path / "elsewhere", "breakdown", AT, AT + 1, ["request_id"]))
    assert {f"drained-{n}" for n in range(21)} == set(logged["request_id"].to_pylist())


def test_a_worker_starts_without_heavy_libraries(settings: RepoSettings) -> None:
    """Start, prediction, metrics and prediction log import neither Feast nor pandas nor whylogs, nor LightGBM's package."""
    script = f"ROW = {ROW!r}\nLAZY = {LAZY!r}\n{START}"
    source = find(settings, "breakdown") / "src"
    answer = subprocess.run(
        [sys.executable, "-c", script, str(source)],
        env=environment(), cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    lines = answer.stdout.splitlines()
    assert lines[:2] == ["200", ""], answer.stderr
    assert Path(lines[2]).is_relative_to(source)
    listed = installed_by((source.parent / "env" / "python" / "requirements.txt").read_text().splitlines())
    providers = importlib.metadata.packages_distributions()
    loaded = {providers[name][0].lower().replace("_", "-") for name in lines[3].split() if name in providers}
    optional = {
        "asof",
        "httpx",
        "setuptools",
        "editables",
        "pip",
        "colorama",
        "pexpect",
        "ptyprocess",
    }  # ours, this test's, and what others use if it is there
    assert loaded - listed <= optional


def installed_by(requirements: list[str]) -> set[str]:
    """The distributions that installing these brings along."""
    found: set[str] = set()
    todo = [re.split(r"[^\w.-]", line)[0] for line in requirements if line]
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # for another platform
            todo += [re.split(r"[^\w.-]", r)[0] for r in needed if "extra ==" not in r]
    return found


def test_redis_may_come_after_the_service(settings: RepoSettings, tmp_path: Path) -> None:
    """With no Redis at the address a service starts, says so at every request, and is ready once there is one."""
    port = free_port()
    with serving(settings, tmp_path / "log.txt", ASOF_REDIS=f"127.0.0.1:{port}") as one:
        one.until(lambda: one.ask("/livez")[0] == 200)
        assert one.ask("/readyz")[0] == 503
        status, answer, _ = one.predict()
        assert (status, f"127.0.0.1:{port}" in answer["error"]["message"]) == (503, True)
        with subprocess.Popen(
            [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
            stdout=subprocess.DEVNULL,
        ) as redis:  # fmt: skip
            try:
                one.until(lambda: "not applied" in str(one.ask("/readyz")[1]))
            finally:
                redis.terminate()


def test_serving_what_was_not_built_says_what_to_do(tmp_path: Path) -> None:
    """Without a Bento the command names the one that makes it."""
    (tmp_path / "feature_store.yaml").write_text(STORE)
    answer = asof(tmp_path, "serve", "breakdown")
    assert (answer.returncode, "asof build breakdown" in answer.stderr) == (2, True)
    assert len(answer.stderr.splitlines()) == 1


def test_building_an_unknown_model_names_the_known(settings: RepoSettings) -> None:
    """The error for a mistyped model names the right one."""
    answer = asof(settings.path, "build", "breakdwon")
    assert (answer.returncode, "did you mean 'breakdown'" in answer.stderr) == (2, True)
