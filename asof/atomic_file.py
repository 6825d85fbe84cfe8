"""Writes a file or a folder so that it appears whole or not at all, also if the process is killed or the disk is full."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; on success, what was written there replaces ``path``.

    The caller writes a file or makes a folder. After an error the temporary one is deleted and ``path`` is as it was. A
    folder can only take the place of an empty one.

    Raises:
        OSError: The folder of ``path`` cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".writing-{uuid.uuid4().hex}")
    try:
        yield work
        os.replace(work, path)
    finally:
        if work.is_dir():
            shutil.rmtree(work, ignore_errors=True)
        else:
            work.unlink(missing_ok=True)
