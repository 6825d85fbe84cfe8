"""Writes docs/python.md from the methods of ``asof.open``: ``python docs/generate_python.py``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from asof.cli import COMMANDS
from asof.feature_repo import COMMAND_LINE_ONLY, FeatureRepo

TARGET = Path(__file__).resolve().parent / "python.md"

HEADER = """\
# Python and notebooks

The tables on this page are made from the code by `docs/generate_python.py`; do not edit.

```python
import asof

repo = asof.open("shop")
repo.apply()
repo.ingest("orders", "orders.parquet")
repo.get("shop_v1", {"seller_id": 3, "weight": 12.5})
```

[The notebook](notebook.ipynb) shows it with its results, from a file of events to a served value.

`asof.open(path)` finds the repo as the command line does: without a path at `$ASOF_REPO`, `.` or `./feature_repo`. Its methods are the verbs of the
[command line](cli.md). A method and its command call the same function, with the same names and defaults:

- A dash in an option is an underscore (`--allow-leak` is `allow_leak`), `--from` and `--to` are `start` and `end`. What a command takes without a
  dash comes first; options are given by name.
- A moment is ISO 8601 text or a `datetime`; without a zone it means UTC.
- `ingest`, `push` and `dataset` take rows in memory, too: a pyarrow table, or a pandas or polars data frame. `dataset` without `output` keeps the rows in
  memory; they are in the result's `table`.
- Definitions, models and settings are read anew at each call. A changed function of an on-demand view counts from the next `apply` on.

A result prints as the command prints it, and a notebook shows it as a table. It has `to_dict()`, which is what `--json` prints, and `exit_code`, where a
check that said no is 1 (a threshold that was missed, drift, a mismatch). Lists of tables, versions and models are sequences; `get` gives a mapping;
`drift`, `skew`, `performance`, `profile` and `drill` give a sequence with a report for each version.

Errors are the exceptions of `asof.errors`: `AsofError` is the root, `UsageError` what the caller must change. Nothing ends the process.

Work that takes longer than a second shows its progress, in a notebook as a bar. `asof.open(path, progress=False)` switches that off.

`import asof` loads nothing but the version; Feast, DuckDB and the other libraries are imported by the methods that need them.

## Methods
"""


def render() -> str:
    """The whole page."""
    rows = [_row(verb) for verb in sorted({*COMMANDS} - {*COMMAND_LINE_ONLY})]
    without = [f"| [`asof {verb}`](cli.md#asof-{verb}) | {why} |" for verb, why in sorted(COMMAND_LINE_ONLY.items())]
    return "\n".join(
        [
            HEADER,
            "| command | method of `asof.open(path)` | what it gives |\n|---|---|---|",
            *rows,
            "\n## Commands without a method\n\n| command | why |\n|---|---|",
            *without,
            "",
        ]
    )


def _row(verb: str) -> str:
    method = getattr(FeatureRepo, verb)
    parameters = list(inspect.signature(method).parameters.values())[1:]
    bare = inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in parameters])
    doc = re.sub(r":meth:`(\w+)`", r"`\1`", (inspect.getdoc(method) or "").partition("\n\n")[0])
    first = " ".join(doc.replace("``", "`").split())
    return f"| [`asof {verb}`](cli.md#asof-{verb}) | `{verb}{bare}` | {first} |"


if __name__ == "__main__":
    TARGET.write_text(render())
