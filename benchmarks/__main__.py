"""``python -m benchmarks AREA [OPTIONS]``: measure one area against what one would otherwise use."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

AREAS = sorted(p.parent.name for p in Path(__file__).parent.glob("*/__main__.py"))


def main() -> None:
    """Hand over to the area's own command."""
    if len(sys.argv) < 2 or sys.argv[1] not in AREAS:
        raise SystemExit(f"usage: python -m benchmarks AREA [OPTIONS]; areas: {', '.join(AREAS)}")
    area = sys.argv.pop(1)
    runpy.run_module(f"benchmarks.{area}", run_name="__main__")


main()
