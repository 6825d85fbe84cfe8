"""Memory in ordinary pages.

Numpy asks for huge ones for every large array; where the kernel has to find and clear them first, waiting for them costs more
than the work on the array.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users: list[int] = []
"""How many work in ordinary pages (the number itself does not matter), behind what numpy did before the first of them."""


@contextmanager
def ordinary_pages() -> Iterator[None]:
    """Whatever numpy allocates meanwhile, in any thread, is in ordinary pages; afterwards it does as before."""
    ask = getattr(importlib.import_module("numpy._core.multiarray"), "_set_madvise_hugepage", None)
    if ask is None:
        yield
        return
    with _lock:
        _users.append(ask(False) if not _users else 0)
    try:
        yield
    finally:
        with _lock:
            if len(_users) == 1:
                ask(bool(_users[0]))
                _users.clear()
            else:
                _users.pop()
