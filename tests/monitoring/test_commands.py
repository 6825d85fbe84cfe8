"""The monitoring verbs on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asof import open as open_repo
from asof.cli import cli
from asof.errors import BundleError, NoPredictionsError, NotFoundError, UsageError
from tests.monitoring import served


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo with a history, a trained model and an honest log."""
    folder = tmp_path_factory.mktemp("repo")
    served.serve(folder / "data" / "predictions", served.honest(folder, size=1_500))
    served.train(folder / "data" / "models")
    return folder


def asof(repo: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--repo", str(repo), *arguments])


def answer(result: Result) -> dict:
    loaded: dict = json.loads(result.stdout)
    return loaded


def test_drift_answers_in_text_json_and_html_with_an_exit_code(repo: Path, tmp_path: Path) -> None:
    """The three forms say the same, and drift is exit code 1."""
    page = tmp_path / "page.html"
    result = asof(repo, "drift", served.MODEL, "--html", str(page), "--json")
    data = answer(result)
    assert result.exit_code == 1
    assert data["drift"] is True
    assert data["report"] == str(page)
    assert "Drift found" in page.read_text()
    text = asof(repo, "drift", served.MODEL)
    assert text.exit_code == 1
    assert data["summary"] in text.stdout
    asof(repo, "drift", served.MODEL)
    written = {p.name for p in (repo / "data" / "reports").iterdir()}
    assert len([name for name in written if name.startswith("drift-shop-v1-")]) == 2


def test_methods_give_the_reports_that_the_commands_print(repo: Path, tmp_path: Path) -> None:
    """`asof.open` has the monitoring verbs as methods: a report for each version, with the command's JSON, text and exit code."""
    opened = open_repo(repo)
    for verb in ("drift", "skew", "profile"):
        reports = getattr(opened, verb)(served.MODEL)
        printed = asof(repo, verb, served.MODEL, "--json")
        given, expected = json.loads(json.dumps(reports.to_dict(), default=str)), answer(printed)
        for one in (given, expected):
            one.pop("report", None)  # reports of drift are numbered
        if verb != "profile":  # the second one finds the profiles unchanged
            assert given == expected
        assert (len(reports), reports.exit_code) == (1, printed.exit_code)
        assert reports[0].version == "v1"
        assert "<table>" in reports._repr_html_()
    with pytest.raises(BundleError, match="does not say where its labels are"):
        opened.performance(served.MODEL)
    changed = opened.drill(served.MODEL, scale={"amount": 5}, share=0.5, output=tmp_path / "copy")
    assert 0 < changed[0].changed < changed[0].rows
    assert opened.drift(served.MODEL, log=tmp_path / "copy", start="2000-01-01", html=tmp_path / "page.html")[0].drifted
    assert (tmp_path / "page.html").exists()


def test_every_served_version_is_judged_by_its_own_bundle(repo: Path, tmp_path: Path) -> None:
    """Two served versions are two reports, a trained version that nobody served is none; copies hold both."""
    models, log = tmp_path / "data" / "models", tmp_path / "data" / "predictions"
    (tmp_path / "feature_store.yaml").write_text((repo / "feature_store.yaml").read_text())
    for version in ("v1", "v2", "v3"):
        served.train(models, version=version)
    served.serve(log, served.rows(4_000, seed=3), "v1")
    assert answer(asof(tmp_path, "drift", served.MODEL, "--json"))["version"] == "v1"
    served.serve(log, served.rows(3_000, seed=4), "v2")
    result = asof(tmp_path, "drift", served.MODEL, "--json")
    found = answer(result)["versions"]
    assert [(v["version"], v["rows"]) for v in found] == [("v1", 4_000), ("v2", 3_000)]
    assert (result.exit_code, len({v["report"] for v in found})) == (0, 2)
    copy = tmp_path / "copy"
    made = asof(tmp_path, "drill", served.MODEL, "--scale", "amount=5", "-o", str(copy), "--json")
    assert [v["rows"] for v in answer(made)["versions"]] == [4_000, 3_000]
    assert asof(tmp_path, "drift", served.MODEL, "--log", str(copy)).exit_code == 1
    assert asof(tmp_path, "drift", served.MODEL, "--version", "v3").exit_code == 4
    profiled = answer(asof(tmp_path, "profile", served.MODEL, "--json"))["versions"]
    assert [p["rows"] for p in profiled] == [4_000, 3_000]


def test_a_version_whose_bundle_is_gone_is_named_and_the_others_are_judged(repo: Path, tmp_path: Path) -> None:
    """A deleted bundle stops no verb: its version is named, the other one is judged; without any bundle there is an error."""
    models, log = tmp_path / "data" / "models", tmp_path / "data" / "predictions"
    (tmp_path / "feature_store.yaml").write_text((repo / "feature_store.yaml").read_text())
    for version in ("v1", "v2"):
        served.train(models, version=version)
        served.serve(log, served.rows(3_000, seed=4), version)
    shutil.rmtree(models / served.MODEL / "v1")
    for verb in ("drift", "profile"):
        result = asof(tmp_path, verb, served.MODEL, "--json")
        assert result.exit_code == 0, result.output
        assert answer(result)["version"] == "v2"
        assert "predictions of v1 were not judged: the bundle is gone" in str(answer(result)["problems"])
    assert "predictions of v1 were not judged" in asof(tmp_path, "drift", served.MODEL).output
    served.train(models, version="v3")
    shutil.rmtree(models / served.MODEL / "v2")
    lost = asof(tmp_path, "drift", served.MODEL)
    assert isinstance(lost.exception, NotFoundError)


def test_a_quiet_log_is_exit_code_0_and_an_empty_window_4(repo: Path, tmp_path: Path) -> None:
    """No drift is no alarm; no data is neither yes nor no."""
    served.serve(tmp_path / "quiet", served.rows(4_000, seed=1))
    assert asof(repo, "drift", served.MODEL, "--log", str(tmp_path / "quiet")).exit_code == 0
    empty = asof(repo, "drift", served.MODEL, "--to", "2001-01-01", "--json")
    assert (empty.exit_code, answer(empty)["rows"]) == (4, 0)
    for verb in ("skew", "profile"):
        assert asof(repo, verb, served.MODEL, "--to", "2001-01-01").exit_code == 4


def test_a_drill_rings_the_alarm(repo: Path, tmp_path: Path) -> None:
    """A quiet log, manipulated on the command line, drifts on the command line."""
    served.serve(tmp_path / "quiet", served.rows(4_000, seed=2))
    logs = ["--log", str(tmp_path / "quiet")]
    made = asof(
        repo, "drill", served.MODEL, *logs, "--scale", "amount=5", "--share", "0.33", "-o", str(tmp_path / "copy")
    )
    assert made.exit_code == 0
    assert f"asof drift shop --log {tmp_path / 'copy'}" in made.stdout
    assert asof(repo, "drift", served.MODEL, "--log", str(tmp_path / "copy")).exit_code == 1


def test_skew_is_clean_on_an_honest_log_and_loud_on_a_wrong_one(repo: Path, tmp_path: Path) -> None:
    """No mismatch is exit code 0; a wrong value is exit code 1 and an example."""
    clean = asof(repo, "skew", served.MODEL, "--json")
    assert (clean.exit_code, answer(clean)["mismatches"], answer(clean)["rows"]) == (0, 0, 1_500)
    asof(repo, "drill", served.MODEL, "--add", "count_7d=1", "--share", "0.01", "-o", str(tmp_path / "wrong"))
    wrong = asof(repo, "skew", served.MODEL, "--log", str(tmp_path / "wrong"))
    assert wrong.exit_code == 1
    assert "- count_7d: customer_id=" in wrong.stdout


def test_profile_writes_files_below_the_repo(repo: Path) -> None:
    """One file for each day, named in the answer."""
    result = asof(repo, "profile", served.MODEL, "--from", "2024-05-07", "--to", "2024-05-09", "--json")
    assert result.exit_code == 0
    assert [Path(p["path"]).name for p in answer(result)["profiles"]] == ["2024-05-07.bin", "2024-05-08.bin"]
    assert (repo / "data" / "profiles" / "shop" / "v1" / "2024-05-07.bin").is_file()


def test_nothing_served_yet_is_nothing_to_judge(repo: Path, tmp_path: Path) -> None:
    """Before anything was served, every report ends with exit code 4 and says how to serve."""
    shutil.copytree(repo, tmp_path / "repo", ignore=shutil.ignore_patterns("predictions"))
    for verb in ("drift", "skew", "performance", "profile"):
        result = asof(tmp_path / "repo", verb, "shop")
        assert isinstance(result.exception, NoPredictionsError)
        assert result.exception.exit_code == 4
        assert "asof serve shop" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["drift", "shpo"], NotFoundError, "did you mean 'shop'"),
        (["drift", "shop", "--version", "v9"], NotFoundError, "no version of model 'shop' named 'v9'"),
        (["skew", "shop", "--from", "yesterday"], UsageError, "expected ISO 8601"),
        (
            ["drift", "shop", "--from", "2024-05-08", "--to", "2024-05-07"],
            UsageError,
            "expected the first to be earlier",
        ),
        (["profile", "shop", "--log", "nowhere"], NotFoundError, "no prediction log in nowhere"),
        (["drill", "shop", "-o", "x"], UsageError, "nothing to change"),
        (["drill", "shop", "--scale", "amount", "-o", "x"], UsageError, "expected COLUMN=NUMBER"),
        (["drill", "shop", "--scale", "amount=five", "-o", "x"], UsageError, "expected COLUMN=NUMBER"),
    ],
)
def test_wrong_use_is_one_line(repo: Path, arguments: list[str], error: type, message: str) -> None:
    """A mistyped model, version, time, window, folder or change is told in one line."""
    result = asof(repo, *arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
