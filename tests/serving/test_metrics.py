"""The metrics of a service, even if the metrics library was used before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from prometheus_client import Counter
Counter("others", "Opened in the folder of somebody else.").inc()
from asof.serving.metrics import Metrics
metrics = Metrics()
metrics.rows.inc(3)
assert os.environ["PROMETHEUS_MULTIPROC_DIR"] != sys.argv[1]
print(metrics.text()[0].decode())
"""


def test_rows_are_counted_although_the_library_was_used_before(tmp_path: Path) -> None:
    """Counters are stored in the service's own folder even if another one was open, and only they are reported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "asof_service_rows_total 3.0" in done.stdout
    assert "others" not in done.stdout
