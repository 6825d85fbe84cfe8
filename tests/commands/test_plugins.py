"""The verb that the documentation shows how to add."""

import re
from importlib.metadata import EntryPoint

from asof import cli as roof
from tests.commands.conftest import asof


def test_the_verb_in_the_documentation_works(filled, root, tmp_path, monkeypatch):
    """The example of docs/extending.md, declared as an entry point, is a verb that reads a repo and fails in one line."""
    repo, _ = filled
    section = (root / "docs" / "extending.md").read_text().partition("## A new verb")[2]
    module = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    name, target = re.search(r'"asof.commands"\]\n(\w+) = "asof_lineage.command(:\w+)"', section).groups()
    (tmp_path / "documented_verb.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(roof, "_declared", lambda: [EntryPoint(name, f"documented_verb{target}", roof.PLUGINS)])

    assert asof("--repo", repo, name, "fraud_v1").out == "fraud_reports\ntransactions\n"
    refused = asof("--repo", repo, name, "no_such_service")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
