"""``asof.open``: the verbs of the command line as methods, whose results print as the command line prints them."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import asof
from asof import console
from asof.cli import COMMANDS, cli
from asof.errors import AsofError, NotFoundError, RequestError, SettingsError, UsageError
from asof.feature_repo import COMMAND_LINE_ONLY, FeatureRepo
from asof.instants import parse_moment
from asof.online.redis.server import EmbeddedRedis
from asof.rendering import Rendered, ResultTable
from tests.commands.conftest import asof as run
from tests.commands.conftest import copy

AT = "2018-07-25T00:00:00Z"
RENAMED = {"from": "start", "to": "end"}
"""Option -> parameter, where the option's name is a word of Python's, and its counterpart."""
OPTIONAL = {("dataset", "output")}
"""Verb and parameter that only the command needs: a method can return the rows."""
MORE = {"simulate": {"options"}}
"""Verb -> parameters that stand for options that only a repo's own code knows."""


def _methods():
    return sorted(
        name for name, value in vars(FeatureRepo).items() if inspect.isfunction(value) and not name.startswith("_")
    )


def _options(verb):
    """Parameter -> default, of a verb on the command line."""
    context = click.Context(cli, info_name="asof", obj={"repo": None, "json": False})
    command = cli.get_command(context, verb)
    found = {}
    for parameter in command.params:
        if parameter.name == "as_json":
            continue
        flags = [o.lstrip("-") for o in parameter.opts if o.startswith("--")]
        shown = flags[0] if flags else re.sub(r"KEY=VALUE|\W", "", parameter.make_metavar(context)).lower() or "pair"
        shown = RENAMED.get(shown, shown).replace("-", "_") + ("s" if parameter.nargs == -1 else "")
        default = parameter.get_default(click.Context(command))
        found[shown] = (parameter, None if "Sentinel" in repr(default) or default == () else default)
    return found


def test_every_verb_is_a_method_or_has_a_reason():
    """Each verb of the command line is a method, or stands in the list of those that make no sense in Python."""
    assert sorted({*_methods()} - {"open"}) == sorted({*COMMANDS} - {*COMMAND_LINE_ONLY})
    assert {*COMMAND_LINE_ONLY} < {*COMMANDS}


@pytest.mark.parametrize("verb", sorted({*COMMANDS} - {*COMMAND_LINE_ONLY}))
def test_parameters_are_those_of_the_command(verb):
    """A method takes what its command takes, by the same names, with the same defaults, and needs what the command needs."""
    options, parameters = _options(verb), dict(inspect.signature(getattr(FeatureRepo, verb)).parameters)
    del parameters["self"]
    assert sorted({*parameters} - MORE.get(verb, set())) == sorted(options)
    for name, (option, default) in options.items():
        several = parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        given = None if several else parameters[name].default
        needed = given is inspect.Parameter.empty
        assert needed == (option.required and not several) or (verb, name) in OPTIONAL
        assert needed or (given or None) == (default or None)


def test_what_a_method_returns_prints_as_the_command_does(filled):
    """`repr` is the text of the command, and `to_dict` its JSON."""
    path, _ = filled
    repo = asof.open(path)
    for verb, *arguments in (("tables",), ("tables", "transactions"), ("plan",), ("models",)):
        result = getattr(repo, verb)(*arguments)
        ran, printed = run("--repo", path, verb, *arguments), run("--repo", path, verb, *arguments, "--json")
        assert (f"{result!r}\n", result.exit_code) == (ran.out, ran.code)
        assert json.loads(json.dumps(result.to_dict())) == printed.answer
    examined, printed = repo.doctor(), run("--repo", path, "doctor", "--json")
    assert [f.check for f in examined.findings] == [f["check"] for f in printed.answer["findings"]]
    assert examined.exit_code == printed.code


def test_get_and_dataset_agree_with_the_command(filled, payments_file, tmp_path):
    """A key is given as a mapping, rows as a file, a table or a data frame; values are those that the command prints."""
    path, _ = filled
    repo = asof.open(path)
    row = pq.read_table(payments_file).slice(0, 1).to_pylist()[0]
    pairs = {"customer_id": row["customer_id"], "terminal_id": row["terminal_id"], "tx_amount": 10}
    found = repo.get("fraud_v1", pairs, at=AT)
    printed = run(
        "--repo", path, "get", "fraud_v1", *(f"{k}={v}" for k, v in pairs.items()), "--at", AT, "--json"
    ).answer
    assert found.to_dict() == printed
    assert found["amount"] == 10.0
    assert found.statuses["amount"] == "present"

    rows = pa.table({name: [value] for name, value in pairs.items()} | {"tx_datetime": [AT]})
    entities = rows.set_column(3, "tx_datetime", pc.cast(rows["tx_datetime"], pa.timestamp("us", "UTC")))
    held = repo.dataset("fraud_v1", entities=entities, at="tx_datetime")
    framed = repo.dataset("fraud_v1", entities=entities.to_pandas(), at="tx_datetime")
    written = repo.dataset("fraud_v1", entities=entities, at="tx_datetime", output=tmp_path / "rows.parquet")
    assert held.table["amount"].to_pylist() == [10.0]
    assert held.table.select(found.keys()).to_pylist() == written.table.select(found.keys()).to_pylist()
    assert held.table.select(found.keys()).to_pylist() == framed.table.select(found.keys()).to_pylist()
    assert {k: v for k, v in held.table.to_pylist()[0].items() if k in found} == pytest.approx(dict(found), nan_ok=True)
    assert re.match(r"1 row x \d+ features \(", repr(held))


def test_rows_in_memory_are_ingested_and_pushed(root, tmp_path, payments_file):
    """A table or a data frame is added as a file is; adding it again adds nothing."""
    repo = asof.open(copy(root / "feature_repo", tmp_path / "repo"), progress=False)
    repo.apply()
    rows = pq.read_table(payments_file).slice(0, 100)
    try:
        assert repo.ingest("transactions", rows).rows_added == 100
        assert repo.ingest("transactions", rows.to_pandas()).duplicates == 100
        assert repo.push("transactions", payments_file).offline.duplicates == 100
        assert repo.tables()[0].table
        assert repo.materialize("customer_spending", end=parse_to_datetime(AT)).views[0].end == parse_moment(AT)
    finally:
        run("--repo", repo.path, "redis", "stop")


def parse_to_datetime(text):
    from asof.instants import from_micros

    return from_micros(parse_moment(text))


def test_definitions_that_changed_are_read_anew(root, tmp_path):
    """A second plan in the same process sees what was edited since the first."""
    path = copy(root / "feature_repo", tmp_path / "repo")
    repo = asof.open(path)
    assert repo.plan().applied is False
    try:
        assert repo.apply().applied is True
    finally:
        EmbeddedRedis(path / "data" / "redis").stop()
    assert not repo.plan().changes
    services = path / "services.py"
    services.write_text(services.read_text().replace("fraud_v1", "fraud_v9"))
    assert {(c.action, c.name) for c in repo.plan().changes} == {("add", "fraud_v9"), ("remove", "fraud_v1")}


def test_errors_are_those_of_asof(filled, tmp_path):
    """Wrong use raises what the command prints; nothing ends the process."""
    repo = asof.open(filled[0])
    with pytest.raises(SettingsError, match=r"no feature_store\.yaml in"):
        asof.open(tmp_path)
    with pytest.raises(NotFoundError, match="did you mean 'transactions'"):
        repo.tables("transaction")
    with pytest.raises(RequestError, match="is missing"):
        repo.get("fraud_v1")
    with pytest.raises(NotFoundError, match="model"):
        repo.drift("none", start="2018-08-08")
    with pytest.raises(UsageError, match="nothing to change"):
        repo.drill("none", output=tmp_path / "copy")
    with pytest.raises(AsofError, match="expected SERVICE"):
        repo.dataset()


class Shown(Rendered):
    """A result of every kind of part."""

    def parts(self):
        """Text and tables."""
        yield "orders & <b>returns</b>"
        yield ""
        yield ResultTable(("name", "rows"), [("<script>alert(1)</script>", 1_234), (None, 2)])
        yield "done"

    def to_dict(self):
        """Nothing."""
        return {}


def test_html_is_escaped_and_self_contained():
    """The HTML of a result has its lines and tables, escaped, with no script, address, colour or fixed background."""
    html = Shown()._repr_html_()
    tags, texts = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)

        def handle_data(self, data):
            texts.append(data)

    Reader().feed(html)
    assert set(tags) == {"div", "pre", "table", "thead", "tbody", "tr", "th", "td"}
    assert texts == ["orders & <b>returns</b>", "name", "rows", "<script>alert(1)</script>", "1,234", "-", "2", "done"]
    assert not re.search(r"//|color|background|src|href", html)
    assert repr(Shown()).splitlines() == [
        "orders & <b>returns</b>", "", "name                        rows", f"{'-' * 25}  -----",
        "<script>alert(1)</script>  1,234", "-                              2", "done",
    ]  # fmt: skip


class Screen:
    """Keeps what is drawn."""

    def __init__(self):
        self.drawn = []

    def draw(self, text, share):
        """Keep it."""
        self.drawn.append((text, share))

    def close(self, text):
        """Keep it."""
        self.drawn.append((text, None))


def test_progress_is_shown_for_long_work_only(monkeypatch):
    """Work of more than a second draws its progress, and what is quicker, or switched off, draws nothing."""
    screen = Screen()
    monkeypatch.setattr(console, "_screen", lambda: screen)
    with console.progress("quick", 2) as line:
        line.advance()
    assert screen.drawn == []
    monkeypatch.setattr(console, "SHOW_AFTER", -1.0)
    with console.progress("slow", 2) as line:
        line.advance()
    assert screen.drawn[0][0].startswith("slow: [############------------] 1/2")
    assert screen.drawn[0][1] == 0.5
    monkeypatch.undo()
    with console.progress_shown(False), console.progress("hidden") as line:
        assert line.screen is None


class Display:
    """Stands for IPython in a notebook: keeps what each output shows."""

    def __init__(self):
        self.shown, self.display, self.kernel = [], self, self

    def get_ipython(self):
        """The shell of a notebook has a kernel."""
        return self

    def __call__(self, bundle, *, raw, display_id):
        """A new output."""
        return self.update(bundle, raw=raw)

    def update(self, bundle, *, raw):
        """Another content of the output."""
        self.shown.append(bundle["text/html"])
        return self


def test_a_notebook_shows_a_bar(monkeypatch):
    """In a notebook progress is one output: a bar, and in the end how long it took."""
    notebook = Display()
    notebook.display.display = notebook
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setattr(console, "SHOW_AFTER", -1.0)
    with console.progress("<reading>", 4) as line:
        line.advance()
    assert notebook.shown[0].startswith('<progress value="0.250"></progress> &lt;reading&gt;: [')
    assert notebook.shown[1:] == ["<small>&lt;reading&gt;: 0 s</small>"]
    with console.progress_shown(False), console.progress("hidden", 1) as line:
        line.advance()
    assert len(notebook.shown) == 2


def test_importing_asof_imports_nothing_else():
    """`import asof` loads its version and no library."""
    code = "import sys; before = set(sys.modules); import asof; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert loaded.split() == ["__future__", "asof", "asof.version"]


def test_opening_a_repo_imports_no_heavy_library(filled):
    """A repo is open before Feast, pandas or DuckDB were imported."""
    code = f"import asof, sys; asof.open({str(Path(filled[0]))!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"feast", "pandas", "duckdb", "pyarrow", "numpy", "lightgbm", "bentoml"} & set(loaded.split())
