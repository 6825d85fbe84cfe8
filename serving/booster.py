"""A trained LightGBM model, called through LightGBM's C interface.

``import lightgbm`` also imports pandas and scikit-learn and takes seconds, while a worker needs a few functions of one shared
library. The library is found without importing the package: a worker starts faster, and scoring a row takes microseconds
instead of a tenth of a millisecond.

The calls follow LightGBM's documented C API (https://lightgbm.readthedocs.io/en/stable/C-API.html).
"""

from __future__ import annotations

import ctypes
import importlib.util
import weakref
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asof.errors import BundleError
from asof.quantities import counted

_FLOAT64 = 1
_PREDICT_NORMAL = 0
_ALL_ITERATIONS = -1
_SINGLE_THREAD = b"num_threads=1"


class Booster:
    """A booster read from LightGBM's text format. It can be called from several threads.

    Args:
        path: The model text.

    Raises:
        BundleError: The file is not a model, or LightGBM is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._library = _library()
        self._handle = ctypes.c_void_p()
        iterations = ctypes.c_int()
        text = path.read_bytes()
        self._call("LGBM_BoosterLoadModelFromString", text, ctypes.byref(iterations), ctypes.byref(self._handle))
        weakref.finalize(self, self._library.LGBM_BoosterFree, self._handle)
        self.features = self._integer("LGBM_BoosterGetNumFeature")
        self.width = self._integer("LGBM_BoosterGetNumClasses")
        if self.width < 1:
            raise BundleError(
                f"{path} gives {self.width} scores for each row, expected 1 or more; train the model again"
            )

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the booster gives for each row.

        Args:
            matrix: ``float64[n, F]``, NaN for missing.

        Returns:
            ``float64[n]``, or of several classes ``float64[n, K]``.

        Raises:
            BundleError: The matrix has another number of columns than the model.
        """
        rows, columns = matrix.shape
        if columns != self.features:
            raise BundleError(
                f"the model reads {counted(self.features, 'feature')}, the contract gives {columns}; train again"
            )
        data = np.ascontiguousarray(matrix, dtype=np.float64)
        given = np.empty((rows, self.width))
        written = ctypes.c_int64()
        if rows:
            self._call(
                "LGBM_BoosterPredictForMat", self._handle, ctypes.c_void_p(data.ctypes.data), _FLOAT64,
                ctypes.c_int32(rows), ctypes.c_int32(columns), 1, _PREDICT_NORMAL, 0, _ALL_ITERATIONS, _SINGLE_THREAD,
                ctypes.byref(written), ctypes.c_void_p(given.ctypes.data),
            )  # fmt: skip
        return given if self.width > 1 else given[:, 0]

    def _integer(self, function: str) -> int:
        value = ctypes.c_int()
        self._call(function, self._handle, ctypes.byref(value))
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        if getattr(self._library, function)(*arguments) != 0:
            message = self._library.LGBM_GetLastError().decode(errors="replace")
            raise BundleError(f"LightGBM refused the model: {' '.join(message.split())}")


@cache
def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec("lightgbm")
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
    files = [path for folder in folders for path in sorted(folder.glob("**/lib_lightgbm.*"))]
    if not files:
        raise BundleError("LightGBM's library is not installed; run `pip install lightgbm`")
    library = ctypes.CDLL(str(files[0]))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library
