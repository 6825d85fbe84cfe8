"""The drift report as one HTML file: opens offline, in light and dark, on paper and in a screen reader.

There are no scripts and no external resources: charts are inline SVG, folding is ``<details>``, and a content security policy
forbids everything else. Every text that comes from data or from a name is escaped.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path

from asof.atomic_file import replacing
from asof.instants import SECOND, format_moment
from asof.monitoring.charts import chart
from asof.monitoring.comparison import Verdict
from asof.monitoring.drift import ColumnDrift, DriftFinding, DriftReport
from asof.statistics import histograms

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_SIGN = {Verdict.DRIFT: "▲", Verdict.TOO_FEW: "…", Verdict.SLIGHT: "△", Verdict.STABLE: "✓"}
_CLASS = {Verdict.DRIFT: "drift", Verdict.TOO_FEW: "few", Verdict.SLIGHT: "slight", Verdict.STABLE: "stable"}


def to_html(report: DriftReport) -> str:
    """The report as one HTML document."""
    style = resources.files("asof.monitoring").joinpath("report.css").read_text(encoding="utf-8")
    sections = "".join(_section(column, position) for position, column in enumerate(report.columns))
    title = escape(f"{report.model}: drift report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>{_heading(report)}</header>\n<main>\n{_next_steps(report)}{_overview(report)}"
        f'<section aria-labelledby="columns"><h2 id="columns">Column by column</h2>{_LEGEND}{sections}</section>\n'
        f"{_method(report)}</main>\n</body>\n</html>\n"
    )


def write_html(report: DriftReport, path: Path) -> None:
    """Write the document to ``path``; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as work:
        work.write_text(to_html(report), encoding="utf-8")


_LEGEND = (
    '<p class="legend"><span class="key training"></span> training <span class="key serving"></span> serving. '
    "Numeric cells have equal shares of the training rows; frequent values have their own cell.</p>"
)


def _heading(report: DriftReport) -> str:
    seen = "nothing"
    if report.first is not None and report.last is not None:
        seen = " to ".join(format_moment(moment // SECOND * SECOND) for moment in (report.first, report.last))
    state, words = ("drift", "Drift found") if report.drifted else ("stable", "No drift found")
    if not report.rows or all(c.verdict == Verdict.TOO_FEW for c in report.columns):
        state, words = "few", "Too few rows to say"
    facts = [
        ("Model", f"{report.model} {report.version}"),
        ("Asked for", str(report.window)),
        ("Seen", seen),
        ("Predictions", f"{report.rows:,}"),
        ("Training rows", f"{report.reference_rows:,}"),
    ]
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    counts = "".join(_count(report, verdict) for verdict in Verdict)
    return (
        f'<p class="kind">Drift report</p><h1>{escape(report.model)}</h1><p class="answer {state}" role="status">{words}</p>'
        f'<p class="summary">{escape(report.summary)}</p><ul class="counts">{counts}</ul><dl>{items}</dl>'
    )


def _count(report: DriftReport, verdict: Verdict) -> str:
    return f'<li class="{_CLASS[verdict]}"><b>{len(report.named(verdict))}</b> {_SIGN[verdict]} {escape(verdict)}</li>'


def _next_steps(report: DriftReport) -> str:
    lines = "".join(f"<li>{_prose(line)}</li>" for line in (*report.advice, *report.problems))
    return (
        f'<section class="next" aria-labelledby="next"><h2 id="next">What to do next</h2><ul>{lines}</ul></section>\n'
    )


def _prose(line: str) -> str:
    """Escaped text in which what stands between backticks is code."""
    parts = escape(line).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 and i < len(parts) - 1 else part for i, part in enumerate(parts))


def _overview(report: DriftReport) -> str:
    rows = "".join(_row(column, position) for position, column in enumerate(report.columns))
    head = "".join(
        f'<th scope="col"{kind}>{name}</th>'
        for name, kind in (
            ("Column", ""), ("Verdict", ""), ("Effect", ""), ("p, adjusted", ' class="number"'), ("Missing", ' class="number"'),
            ("What changed most", ""),
        )
    )  # fmt: skip
    return (
        '<section aria-labelledby="overview"><h2 id="overview">All columns, worst first</h2><div class="scroll" tabindex="0" '
        'role="region" aria-labelledby="overview">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>\n"
    )


def _row(column: ColumnDrift, position: int) -> str:
    worst = column.worst
    source = f"<small>{escape(column.source or 'the model')}</small>"
    return (
        f'<tr><th scope="row"><a href="#c{position}">{_breakable(column.name)}</a> {source}</th><td>{_badge(column.verdict)}</td>'
        f'<td>{_meter(worst.comparison.effect, column.verdict)}</td><td class="number">{escape(_p(worst.adjusted))}</td>'
        f'<td class="number">{escape(_missing(column))}</td><td>{escape(column.change.replace("->", "→"))}</td></tr>'
    )


def _breakable(name: str) -> str:
    """The escaped name; a long one breaks after an underscore."""
    return escape(name).replace("_", "_<wbr>")


def _badge(verdict: Verdict) -> str:
    return f'<span class="badge {_CLASS[verdict]}">{_SIGN[verdict]} {escape(verdict)}</span>'


def _meter(effect: float, verdict: Verdict) -> str:
    """The effect as a bar from 0 to 1 with its number; most effects are small, so the bar shows the square root."""
    return (
        f'<span class="meter {_CLASS[verdict]}"><svg viewBox="0 0 80 8" aria-hidden="true"><rect class="track" width="80" height="8" rx="4"/>'
        f'<rect class="fill" width="{80 * min(1.0, effect) ** 0.5:.1f}" height="8" rx="4"/></svg> {effect:.3f}</span>'
    )


def _section(column: ColumnDrift, position: int) -> str:
    opened = " open" if column.verdict == Verdict.DRIFT else ""
    facts = "".join(f"<li>{_finding(finding)}</li>" for finding in column.findings)
    statuses = ", ".join(f"{name} {share:.1%}" for name, share in column.statuses.items() if share)
    read = f"<li>Read from the store as: {escape(statuses)}.</li>" if statuses else ""
    return (
        f"<details{opened}><summary><span>{escape(column.name)}</span> {_badge(column.verdict)} "
        f'<small>{escape(column.source or "the model")}</small></summary><div id="c{position}" class="column">'
        f"{chart(column.name, column.reference, column.serving, str(position))}<ul>{facts}{read}</ul>{_numbers(column)}</div></details>"
    )


def _finding(finding: DriftFinding) -> str:
    one = finding.comparison
    what = "Values" if finding.measure == "values" else "How many are missing"
    return (
        f"<b>{what}:</b> {escape(finding.verdict)}. Effect {one.effect:.3f}, chi-square {one.statistic:.1f} on {one.freedom:.1f} degrees of "
        f"freedom, adjusted p {escape(_p(finding.adjusted))}. The effective number of independent rows is {one.reference_rows:,.0f} (training) and "
        f"{one.serving_rows:,.0f} (serving)."
    )


def _numbers(column: ColumnDrift) -> str:
    left, right = histograms.cells(column.reference), histograms.cells(column.serving)
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td class="number">{before:,}</td><td class="number">{before / max(left.sum(), 1):.2%}</td>'
        f'<td class="number">{after:,}</td><td class="number">{after / max(right.sum(), 1):.2%}</td></tr>'
        for label, before, after in zip(histograms.labels(column.reference), left.tolist(), right.tolist(), strict=True)
        if before or after
    )
    head = "".join(f'<th scope="col" class="number">{name}</th>' for name in ("Training", "share", "Serving", "share"))
    return (
        '<details class="numbers"><summary>The numbers</summary><table><thead><tr><th scope="col">Value</th>'
        f"{head}</tr></thead><tbody>{lines}</tbody></table></details>"
    )


def _method(report: DriftReport) -> str:
    rule = report.rule
    return (
        '<section class="method" aria-labelledby="method"><h2 id="method">How this was decided</h2><p>Both samples are counted in cells that '
        "were fixed at training. <b>Drift</b> takes two things: a chi-square test that stays significant after Holm's correction for all "
        f"comparisons on this page (chance of any false alarm at most {rule.alpha:g}), and a Hellinger distance of at least "
        f"{rule.minimum_effect:g}, where 0 means equal and 1 nothing in common. <b>Slight change</b> is significant but smaller. Rows of one "
        "key resemble each other, so each sample counts as its effective number of independent rows (Rao and Scott's correction). "
        f"<b>Too few rows</b> means that a drift of that size would be missed with more than {1 - rule.power:.0%} chance.</p></section>\n"
    )


def _missing(column: ColumnDrift) -> str:
    left, right = histograms.cells(column.reference), histograms.cells(column.serving)
    return f"{left[-1] / max(left.sum(), 1):.1%} → {right[-1] / max(right.sum(), 1):.1%}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
