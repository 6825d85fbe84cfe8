"""``python -m examples NAME... [--small] [--into DIR] [--json]``: runs examples through the whole loop."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from asof.console import table
from asof.errors import AsofError
from examples.loop import Example, Outcome, names, run


@click.command()
@click.argument("examples", metavar="[NAME]...", nargs=-1)
@click.option("--small", is_flag=True, help="A slice of the data, as in the tests.")
@click.option(
    "--into",
    metavar="DIR",
    default="build/examples",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the runs, one folder each; an earlier run is deleted.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(examples: tuple[str, ...], small: bool, into: Path, as_json: bool) -> None:
    """Run examples through the whole loop; without a NAME all of them.

    Exit code 1 if a served value differs from the recomputed one, a source was not fed, or something was not judged; 2 or 3 if a step failed.
    """
    outcomes = []
    for example in [Example.load(name) for name in examples or names()]:
        click.echo(f"{example.folder.name}:", err=True)
        outcomes.append(run(example, into / example.folder.name, small=small))
    fine = not any(outcome.problems for outcome in outcomes)
    text = _table(outcomes) + "".join(f"\n{o.name}, {problem}" for o in outcomes for problem in o.problems)
    payload = {"fine": fine, "examples": [outcome.to_dict() for outcome in outcomes]}
    click.echo(json.dumps(payload, indent=1) if as_json else text)
    sys.exit(0 if fine else 1)


def _table(outcomes: list[Outcome]) -> str:
    header = (
        "example",
        "rows",
        "predictions",
        "compared",
        "mismatches",
        "sources fed",
        "drift",
        "performance",
        "seconds",
    )
    return table(
        header,
        [
            (
                o.name, o.rows, o.predictions, o.compared, o.mismatches, len(o.fed), o.drift,
                ", ".join(f"{name} {value:.3f}" for name, value in o.performance.items()) or "not judged", round(o.seconds),
            )
            for o in outcomes
        ],
    )  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except AsofError as error:
        click.echo(f"examples: {error}", err=True)
        sys.exit(error.exit_code)
