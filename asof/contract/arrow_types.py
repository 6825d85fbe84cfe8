"""The Arrow type of each Feast type: the one table for datasets, the online store, Feast's requests and the prediction log."""

from typing import Any

import pyarrow as pa

_UTC = pa.timestamp("us", "UTC")

ARROW_TYPES: dict[str, pa.DataType] = {
    "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64(), "bool": pa.bool_(),
    "string": pa.string(), "bytes": pa.binary(), "pdfbytes": pa.binary(), "imagebytes": pa.binary(), "uuid": pa.string(),
    "timeuuid": pa.string(), "json": pa.string(), "unixtimestamp": _UTC, "zonedtimestamp": _UTC,
}  # fmt: skip
"""Feast's type name in lower case -> Arrow type. Lists, sets, maps, structs and decimals are not in the table: Feast does not
say what is inside all of them, so their Arrow type comes from the data."""

ENCODED_BY_VALUE = frozenset({"uuid", "timeuuid", "zonedtimestamp"})
"""Types whose online values keep more than their Arrow type does (the class, the zone), so they are encoded one by one."""

COLUMN_TYPES = {dtype: kind for dtype, kind in ARROW_TYPES.items() if dtype not in ENCODED_BY_VALUE}
"""The types that the online store writes as whole Arrow columns."""


def parsed_moments(texts: Any) -> Any:
    """An Arrow column of ISO 8601 times as microseconds UTC; a time without a zone means UTC.

    Raises:
        ArrowInvalid: A text is no such time, or some have a zone and some have none.
    """
    try:
        return texts.cast(pa.timestamp("us")).cast(_UTC)
    except pa.ArrowInvalid:
        return texts.cast(_UTC)
