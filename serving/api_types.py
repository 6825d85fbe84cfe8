"""Request and response types made from a contract, for the OpenAPI document.

These types only describe requests; :mod:`asof.serving.request_rows` checks them. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, create_model

from asof.contract import Contract
from asof.contract import Field as Column
from asof.serving.request_rows import LONGEST_TEXT, expected
from asof.task import Task

_TYPES: dict[str, Any] = {
    "int32": Annotated[int, Field(ge=-(2**31), lt=2**31)],
    "int64": Annotated[int, Field(ge=-(2**63), lt=2**63)],
    "float32": float,
    "float64": float,
    "bool": bool,
    "string": Annotated[str, Field(max_length=LONGEST_TEXT)],
    "bytes": Annotated[str, Field(max_length=LONGEST_TEXT, json_schema_extra={"contentEncoding": "base64"})],
    "unixtimestamp": datetime,
}

_REQUEST_ID = "Returned in the response and written to the prediction log; generated if not given."


class Problem(BaseModel):
    """One wrong field of one row."""

    row: int | None = Field(description="0-based position of the row; null if the request as a whole is wrong.")
    field: str = Field(description="Name of the field.")
    problem: str = Field(description="What is wrong and what was expected; never the value.")


class ErrorBody(BaseModel):
    """Why there is no prediction."""

    code: str = Field(description="The kind of error, for programs.")
    message: str = Field(description="What is wrong, for people, in one line.")
    problems: list[Problem] = Field(description="The wrong rows and fields, at most 20; empty for other errors.")
    request_id: str | None = Field(description="Id of the request; null if it is not known.")


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorBody


class Prediction(BaseModel):
    """What every prediction says of its row, besides the answer itself."""

    row: int = Field(description="0-based position of the row in the request.")
    request_id: str = Field(description=_REQUEST_ID)
    model: str = Field(description="Name of the model.")
    model_version: str = Field(description="Its version.")
    missing: list[str] = Field(
        description="Features without a value: the key is unknown, or nothing was known at that moment."
    )
    stale: list[str] = Field(description="Features whose value was older than the ttl and was withheld.")
    not_kept: list[str] = Field(
        description="Features that were withheld because the online store was materialized for a later moment than the row's."
    )


def response_type(task: Task) -> type[BaseModel]:
    """The type of a response's body: one prediction for each row, in the order of the rows."""
    named = dict.fromkeys(task.outputs, (float, ...))
    answers: dict[str, dict[str, tuple[Any, Any]]] = {
        "binary": {
            "score": (float, Field(description="The probability that the model gives.")),
            "decision": (bool, Field(description="Whether the score reaches the model's threshold.")),
        },
        "multiclass": {
            "class": (str, Field(description="The most probable class.")),
            "probabilities": (_record("Probabilities", named), Field(description="The probability of each class.")),
        },
        "ranking": {
            "score": (float, Field(description="The score that the model gives; only its order has a meaning.")),
            "rank": (int, Field(description="The place among the request's rows of the same group, from 1.")),
        },
        "regression": {"value": (float, Field(description="The predicted value."))},
        "quantiles": {
            "value": (float, Field(description="The quantile nearest to the median.")),
            "quantiles": (_record("Quantiles", named), Field(description="Level of each quantile, and its value.")),
        },
    }
    prediction: Any = create_model("Prediction", __base__=Prediction, **cast("Any", answers[task.kind]))
    return create_model("PredictResponse", predictions=(list[prediction], ...))


def _record(name: str, fields: Mapping[str, tuple[Any, Any]]) -> type[BaseModel]:
    """An object with ``fields``, whose names may be any texts."""
    spelled = {
        f"f{i}": (kind, Field(default, alias=field)) for i, (field, (kind, default)) in enumerate(fields.items())
    }
    return create_model(name, **cast("Any", spelled))


def row_type(contract: Contract, event_time: str | None) -> type[BaseModel]:
    """The type of one row: the keys, then the request fields."""
    fields: dict[str, Any] = {}
    for column in contract.keys:
        text = f"Key of {_readers(contract, column.name)}: {expected(column.dtype)}; null if there is none."
        fields[column.name] = (_type(column.dtype) | None, Field(description=text))
    for column in contract.request_fields:
        moment = column.name == event_time
        text = f"The moment that the row is scored for: {expected(column.dtype)}." if moment else _described(column)
        fields[column.name] = (_type(column.dtype) if moment else _type(column.dtype) | None, Field(description=text))
    return create_model("Row", __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


def request_type(contract: Contract, event_time: str | None, max_rows: int) -> type[BaseModel]:
    """The type of a request's body."""
    row: Any = row_type(contract, event_time)
    rows = Field(min_length=1, max_length=max_rows, description=f"1 to {max_rows} rows to score.")
    request_id = Field(default=None, max_length=128, min_length=1, description=_REQUEST_ID)
    fields: dict[str, Any] = {"rows": (list[row], rows), "request_id": (str | None, request_id)}
    if event_time is None:
        fields["at"] = (datetime | None, Field(default=None, description="The moment to score for; by default now."))
    return create_model("PredictRequest", __config__=ConfigDict(extra="forbid"), **fields)


def openapi(base: dict[str, Any], request: type[BaseModel], response: type[BaseModel], version: str) -> dict[str, Any]:
    """The OpenAPI document: BentoML's own, with ``POST /predict`` and its types replaced by those of the contract.

    Args:
        base: The OpenAPI document that BentoML made.
        request: The type of a request's body.
        response: The type of a response's body.
        version: Version of the model.
    """
    schemas = {}
    for kind in (request, response, ErrorResponse):
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}", mode="validation")
        schemas.update(schema.pop("$defs", {}))
        schemas[kind.__name__] = schema
    post = {
        "operationId": "predict",
        "summary": "Score rows.",
        "tags": ["Service APIs"],
        "requestBody": {"required": True, "content": _content(request.__name__)},
        "responses": {
            "200": {"description": "One prediction for each row.", "content": _content("PredictResponse")},
            **{status: {"description": text, "content": _content("ErrorResponse")} for status, text in _ERRORS.items()},
        },
    }
    paths = {**base["paths"], "/predict": {"post": post}}
    info = {**base["info"], "version": version}
    return {**base, "openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


_ERRORS = {
    "400": "The body is not JSON, or rows are wrong: each row and field is named.",
    "413": "Too many rows or bytes.",
    "415": "The content type is not application/json.",
    "500": "Something failed inside the service.",
    "503": "Not ready, overloaded or too slow: try again after Retry-After seconds.",
}


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _type(dtype: str) -> Any:
    if dtype.startswith("array(") and dtype.endswith(")"):
        return list[_type(dtype[6:-1]) | None]  # type: ignore[misc] # a type made at run time
    return _TYPES.get(dtype, object)


def _described(column: Column) -> str:
    return f"Request field: {expected(column.dtype)}; null for missing."


def _readers(contract: Contract, key: str) -> str:
    return ", ".join(v.alias for v in contract.views if any(k.request == key for k in v.join_keys))
