"""Values of one view at the moments that entity rows ask about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from asof.offline.plain import plain_values
from asof.offline.source_rows import Asked, Part
from asof.offline.windowed import windowed_values

if TYPE_CHECKING:
    from asof.contract import View
    from asof.offline.engine import Engine
    from asof.offline.sources import Files


def view_values(
    view: View,
    wanted: Sequence[str],
    files: Files,
    asked: Asked,
    engine: Engine,
    *,
    knowledge: bool,
    part: Part | None = None,
) -> dict[str, pa.Array]:
    """The features ``wanted`` of ``view``, one value per row that asks, in its order and in the declared types.

    Raises:
        SchemaError: The entity rows do not have the view's keys.
        SourceError: The source cannot be read, or holds a value that does not fit its declaration.
    """
    find = windowed_values if view.windowed else plain_values
    return find(view, wanted, files, asked, engine, knowledge, part)
