"""How often `asof drift` alarms without a cause, and how often it sees one: the study behind monitoring/comparison.py.

Pairs of samples are drawn from one process (false alarms) or with a shift (power), at 1 k to 500 k serving rows against 67,000
training rows, with independent rows and with 14 rows for each key, of which some features stay with the key. Each pair is judged
as one of 40 comparisons. Beside asof's verdict stand what the usual rules say of the same counts: a chi-square test that takes all rows
for independent, and a population stability index above 0.1.

    python benchmarks/drift_study.py [--pairs N]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from asof.console import table
from asof.monitoring.comparison import ALPHA, Rule, Verdict, compare, judge
from asof.statistics import design_effect, histograms

TRAINING_ROWS = 67_000
FAMILY = 40
PSI_LIMIT = 0.1

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int], Floats]
Shift = Callable[[np.random.Generator, Floats], Floats]


def _of(rows: int, per_key: int) -> tuple[int, npt.NDArray[np.int64]]:
    keys = -(-rows // per_key)
    return keys, np.repeat(np.arange(keys), per_key)[:rows]


def bell(random: np.random.Generator, rows: int, per_key: int) -> Floats:
    """Most of the spread is between keys."""
    keys, of = _of(rows, per_key)
    return random.normal(size=keys)[of] * 0.84 + random.normal(size=rows) * 0.55


def amounts(random: np.random.Generator, rows: int, per_key: int) -> Floats:
    """Positive and skewed; each key has its usual level."""
    keys, of = _of(rows, per_key)
    level = random.uniform(5, 100, keys)[of]
    return np.abs(random.normal(level, level / 2))


def counts(random: np.random.Generator, rows: int, per_key: int) -> Floats:
    """Whole numbers; each key has its rate."""
    keys, of = _of(rows, per_key)
    return random.poisson(random.uniform(0, 28, keys)[of]).astype(np.float64)


def rare(random: np.random.Generator, rows: int, per_key: int) -> Floats:
    """Zero for nine keys of ten, and the same for all rows of a key."""
    keys, of = _of(rows, per_key)
    return np.where(random.random(keys) < 0.9, 0.0, random.beta(1, 9, keys))[of]


def bound(random: np.random.Generator, rows: int, per_key: int) -> Floats:
    """Skewed, and the same for all rows of a key."""
    keys, of = _of(rows, per_key)
    return random.gamma(2, 20, keys)[of]


PROCESSES: tuple[Draw, ...] = (bell, amounts, counts, rare, bound)


def _share(share: float, factor: float) -> Shift:
    return lambda random, values: np.where(random.random(len(values)) < share, values * factor, values)


SHIFTS: dict[str, Shift] = {
    "none": lambda _, values: values,
    "all x 1.1": _share(1.0, 1.1),
    "all x 1.25": _share(1.0, 1.25),
    "all x 1.5": _share(1.0, 1.5),
    "a tenth x 5": _share(0.1, 5.0),
    "a third x 5": _share(1 / 3, 5.0),
}


@dataclass
class Tally:
    """What was said about the pairs of one cell of the study."""

    pairs: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    naive: int = 0
    psi: int = 0
    effect: float = 0.0

    def add(self, other: Tally) -> None:
        """Count the pairs of another cell too."""
        self.pairs, self.naive, self.psi = self.pairs + other.pairs, self.naive + other.naive, self.psi + other.psi
        self.verdicts.update(other.verdicts)
        self.effect += other.effect


def pair(random: np.random.Generator, process: Draw, shift: Shift, rows: int, per_key: int) -> Tally:
    """One pair, judged in three ways."""
    trained, served = process(random, TRAINING_ROWS, per_key), shift(random, process(random, rows, per_key))
    frozen = histograms.build({"x": trained})
    cells = [histograms.codes(frozen, {"x": values})["x"].astype(np.int64) for values in (trained, served)]
    size = len(histograms.cells(frozen["columns"]["x"]))
    left, right = (np.bincount(c, minlength=size)[:-1].astype(np.float64) for c in cells)
    found = compare(left, right, *(design_effect.design_effect(np.arange(len(c)) // per_key, c) for c in cells))
    verdict = judge(found, min(1.0, found.p_value * FAMILY), FAMILY, Rule())
    naive = compare(left, right).p_value * FAMILY < ALPHA
    return Tally(1, Counter([verdict]), int(naive), int(_psi(left, right) > PSI_LIMIT), found.effect)


def _psi(left: Floats, right: Floats) -> float:
    """The population stability index, empty cells taken for one in ten thousand as is usual."""
    p, q = (np.maximum(sample / sample.sum(), 1e-4) for sample in (left, right))
    return float(((p - q) * np.log(p / q)).sum())


def study(pairs: int, seed: int = 1) -> Iterator[tuple[str, int, int, Tally]]:
    """(shift, rows for each key, serving rows, what was said over all processes)."""
    random = np.random.default_rng(seed)
    for name, shift in SHIFTS.items():
        for per_key in (1, 14):
            for rows in (1_000, 10_000, 100_000, 500_000):
                tally = Tally()
                for process in PROCESSES:
                    for _ in range(max(3, pairs * 1_000 // max(rows, 5_000))):
                        tally.add(pair(random, process, shift, rows, per_key))
                yield name, per_key, rows, tally


def main() -> None:
    """Run the study and print one line for each shift, clustering and size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=100, help="how many pairs there are at the smaller sizes, about")
    lines = []
    for name, per_key, rows, tally in study(parser.parse_args().pairs):
        said = [f"{tally.verdicts[verdict] / tally.pairs:.1%}" for verdict in Verdict]
        others = [f"{tally.naive / tally.pairs:.1%}", f"{tally.psi / tally.pairs:.1%}"]
        lines.append((name, per_key, rows, tally.pairs, *said, f"{tally.effect / tally.pairs:.3f}", *others))
    header = (
        "shift",
        "rows a key",
        "rows",
        "pairs",
        *(str(v) for v in Verdict),
        "effect",
        "chi-square alone",
        "PSI > 0.1",
    )
    print(table(header, lines))


if __name__ == "__main__":
    main()
