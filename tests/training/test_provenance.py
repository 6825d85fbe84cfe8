"""What a bundle says it was made with."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace

from asof.contract import Field, OnDemandView
from asof.revision import code_revision
from asof.training import provenance
from tests.training.machines import CONTRACT


def on_demand(function: str) -> OnDemandView:
    """An on-demand view computed by ``function``."""
    field = Field("x", "float64")
    return OnDemandView("extra", "extra", function, "0", "python", False, (), (field,), (replace(field, name="y"),))


def git(folder, *arguments):
    """Run git in ``folder``."""
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def test_the_revision_is_the_commit_and_says_when_files_were_changed(tmp_path):
    """The code revision is git's commit, marked where tracked files were changed since, and nothing outside a repository."""
    git(tmp_path, "init", "-q")
    (tmp_path / "views.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = code_revision(tmp_path)
    (tmp_path / "views.py").write_text("a = 2\n")

    assert clean == git(tmp_path, "rev-parse", "HEAD")
    assert code_revision(tmp_path) == f"{clean}-dirty"
    assert code_revision(tmp_path / "nowhere") is None


def test_the_lock_is_the_nearest_file_or_what_is_installed(tmp_path, monkeypatch):
    """The lock hash is of the nearest lock file at or above the repo; without one, of the installed packages."""
    (tmp_path / "requirements.lock").write_text("numpy==2.0\n")
    (tmp_path / "repo").mkdir()

    assert provenance.lock_hash(tmp_path / "repo") == (hashlib.sha256(b"numpy==2.0\n").hexdigest(), "requirements.lock")
    monkeypatch.setattr(provenance, "LOCKS", ())
    assert provenance.lock_hash(tmp_path)[1] == "installed packages"


def test_code_is_copied_with_what_it_imports(tmp_path):
    """The modules of on-demand functions are copied with the repo's own modules that they import, packages kept, and nothing else."""
    repo = tmp_path / "repo"
    (repo / "maths").mkdir(parents=True)
    (repo / "extra.py").write_text("import json\nfrom maths import ratios\n")
    (repo / "maths" / "__init__.py").write_text("")
    (repo / "maths" / "ratios.py").write_text("import numbers_of\n")
    (repo / "numbers_of.py").write_text("")
    (repo / "views.py").write_text("import feast\n")
    contract = replace(CONTRACT, on_demand=(on_demand("extra:compute"), on_demand("json:loads")))
    copied = provenance.copy_code(contract, repo, tmp_path / "code")

    assert copied == ["extra.py", "maths/__init__.py", "maths/ratios.py", "numbers_of.py"]
    assert sorted(p.relative_to(tmp_path / "code").as_posix() for p in (tmp_path / "code").rglob("*.py")) == copied
