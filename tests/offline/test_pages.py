"""Huge pages are left out for the time of the work, and for no longer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from numpy._core import multiarray

from asof.offline.pages import ordinary_pages


@pytest.mark.parametrize("before", [True, False])
def test_numpy_does_afterwards_as_before(before: bool) -> None:
    """However many work at once and in whatever order they end, numpy asks for huge pages afterwards as it did before."""
    original = multiarray._set_madvise_hugepage(before)
    together, seen = Barrier(3), []

    @ordinary_pages()
    def work(number: int) -> None:
        together.wait()
        setting = multiarray._set_madvise_hugepage(False)
        seen.append(setting)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))

    assert seen == [False] * 3
    assert multiarray._set_madvise_hugepage(original) == before
