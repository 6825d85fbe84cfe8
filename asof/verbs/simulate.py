"""Makes data with the simulator of a feature repo: the function ``simulate`` of its ``simulate.py``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from asof.atomic_file import replacing
from asof.errors import AsofError, SettingsError, UsageError
from asof.quantities import counted
from asof.rendering import Rendered


@dataclass(frozen=True, repr=False)
class SimulatedFile(Rendered):
    """A file of simulated rows."""

    rows: int
    file: Path

    def parts(self) -> Iterator[str]:
        """How many rows are where."""
        yield f"{counted(self.rows, 'row')} -> {self.file}"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {"rows": self.rows, "file": str(self.file)}


def simulate(repo: Path, output: str | Path, **options: Any) -> SimulatedFile:
    """Make data with the simulator of the feature repo; the same options give the same rows.

    Args:
        repo: Folder of the feature repo.
        output: Parquet or CSV file to write.
        options: Arguments of the simulator.

    Raises:
        SettingsError: The repo has no simulator, or it cannot be imported.
        UsageError: The file has another suffix, or the options cannot be simulated.
    """
    function, target = simulator(repo), Path(output)
    write = _writer_of(target)
    try:
        rows = function(**options)
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        raise UsageError(f"these options cannot be simulated: {' '.join(str(error).split())}") from error
    try:
        with replacing(target) as unfinished:
            write(rows, unfinished)
    except OSError as error:
        raise AsofError(f"cannot write {target}: {error.strerror or error}") from error
    return SimulatedFile(rows.num_rows, target)


def simulator(repo: Path) -> Callable[..., pa.Table]:
    """The function ``simulate`` of ``<repo>/simulate.py``."""
    path = repo / "simulate.py"
    if not path.is_file():
        raise SettingsError(
            f"this repo has no simulator: {path} does not exist; give `asof ingest` a file of real rows instead"
        )
    module = _load(path)
    function = getattr(module, "simulate", None)
    if not callable(function):
        raise SettingsError(f"{path} has no function called simulate")
    found: Callable[..., pa.Table] = function
    return found


def _load(path: Path) -> ModuleType:
    name = f"asofsimulator_{abs(hash(path))}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise SettingsError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise SettingsError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
        sys.modules[name] = module
    return sys.modules[name]


def _writer_of(output: Path) -> Callable[[pa.Table, Path], None]:
    suffix = output.suffix.lower()
    if suffix not in {".parquet", ".csv"}:
        raise UsageError(f"got the output file {output}, expected a name that ends in .parquet or .csv")
    writer: Callable[[pa.Table, Path], None] = pq.write_table if suffix == ".parquet" else pa_csv.write_csv
    return writer
