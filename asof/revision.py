"""The git revision of a folder, recorded with results."""

from __future__ import annotations

import subprocess
from pathlib import Path

_TIMEOUT = 10.0
"""Seconds to wait for git."""


def code_revision(folder: Path) -> str | None:
    """The git commit of ``folder``, with ``-dirty`` if tracked files were changed; None outside a git repository."""
    revision = _git(folder, "rev-parse", "HEAD")
    if not revision:
        return None
    return revision + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
