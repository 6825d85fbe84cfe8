"""A bundle appears whole or not at all, never changes, and notices damage."""

from pathlib import Path

import pytest

from asof.bundle import Bundle, versions, write_json, writing
from asof.contract import Contract
from asof.errors import BundleError, NotFoundError


def _write(models: Path, contract: Contract, version: str = "v1") -> None:
    with writing(models, "risk", version) as folder:
        (folder / "contract.json").write_text(contract.to_json())
        write_json(folder / "metadata.json", {"model": "risk", "version": version})
        (folder / "code").mkdir()
        (folder / "code" / "functions.py").write_text("def ratio(inputs): return {}\n")


def test_a_finished_bundle_is_found_and_read(tmp_path: Path, contract: Contract) -> None:
    """The newest version is the default and its contract is the one written."""
    _write(tmp_path, contract, "v1")
    _write(tmp_path, contract, "v2")
    bundle = Bundle.find(tmp_path, "risk")
    assert (bundle.version, bundle.contract) == ("v2", contract)
    assert Bundle.find(tmp_path, "risk", "v1").version == "v1"


def _fill_and_fail(folder: Path, contract: Contract) -> None:
    (folder / "contract.json").write_text(contract.to_json())
    raise TypeError


def test_a_failed_write_leaves_nothing(tmp_path: Path, contract: Contract) -> None:
    """An error inside the block leaves neither a version nor a working folder."""
    with pytest.raises(TypeError), writing(tmp_path, "risk", "v1") as folder:
        _fill_and_fail(folder, contract)
    assert versions(tmp_path, "risk") == []
    assert list((tmp_path / "risk").iterdir()) == []


def test_a_version_is_never_overwritten(tmp_path: Path, contract: Contract) -> None:
    """Writing a version twice is refused."""
    _write(tmp_path, contract)
    with pytest.raises(BundleError, match="versions never change"):
        _write(tmp_path, contract)


def test_a_changed_file_is_noticed(tmp_path: Path, contract: Contract) -> None:
    """A byte changed after training makes the bundle unusable, and the file is named."""
    _write(tmp_path, contract)
    (tmp_path / "risk" / "v1" / "code" / "functions.py").write_text("import os\n")
    with pytest.raises(BundleError, match=r"functions\.py"):
        Bundle.find(tmp_path, "risk")


def test_unknown_models_and_versions_are_named(tmp_path: Path, contract: Contract) -> None:
    """A mistyped model or version says which exist."""
    _write(tmp_path, contract)
    with pytest.raises(NotFoundError, match="did you mean 'risk'"):
        Bundle.find(tmp_path, "rsik")
    with pytest.raises(NotFoundError, match="v1"):
        Bundle.find(tmp_path, "risk", "v9")
