"""The OpenAPI document: every path, body and status, taken from the models that validate them."""

from __future__ import annotations

from typing import Any

import pydantic

from auditkit.service.messages import HealthAnswer, Message, ObserveAnswer, ObserveBody, Problem, StepAnswer

_REF = "#/components/schemas/{model}"
_REFUSALS = {
    401: "No bearer token, or a wrong one.",
    409: "The id was used for other content, is not known, or the stream cannot take the content.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "The body does not fit the schema.",
    503: "The store cannot be written, or too many requests wait; nothing was applied, repeat under the same id.",
}


def describe_api(app: Any, step_body: type[pydantic.BaseModel], *, has_token: bool) -> dict[str, Any]:
    """The OpenAPI document of an application.

    Args:
        app: Its title, version and description.
        step_body: The body of a step, which depends on the stream's attributes.
        has_token: Whether requests need a bearer token.

    Returns:
        The document.
    """
    secured: dict[str, Any] = {"security": [{"bearer": []}]} if has_token else {}
    content: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": app.title, "version": app.version, "description": app.description},
        "paths": {
            "/v1/step": {"post": _posting("step", "Enforce a batch of scores", step_body, StepAnswer, secured)},
            "/v1/observe": {
                "post": _posting("observe", "Bring the labels of a batch", ObserveBody, ObserveAnswer, secured)
            },
            "/v1/report": {"get": _getting("report", "The figures of the stream", {"type": "object"}, secured)},
            "/health": {"get": _getting("health", "Whether the process runs", _ref(HealthAnswer), {})},
            "/ready": {"get": _getting("ready", "Whether the store answers", _ref(HealthAnswer), {})},
            "/metrics": {"get": _getting("metrics", "Counters for Prometheus", None, secured)},
        },
        "components": {"schemas": _schemas(step_body)},
    }
    if has_token:
        content["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return content


def _schemas(step_body: type[pydantic.BaseModel]) -> dict[str, Any]:
    models: list[type[pydantic.BaseModel]] = [step_body, StepAnswer, ObserveBody, ObserveAnswer, Problem, HealthAnswer]
    _, document = pydantic.json_schema.models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF
    )
    return document["$defs"]


def _ref(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    return {"$ref": _REF.format(model=model.__name__)}


def _json_content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _refusals(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {"description": _REFUSALS[status], "content": _json_content(_ref(Problem))} for status in statuses
    }


def _posting(
    name: str, summary: str, body: type[pydantic.BaseModel], answer: type[Message], secured: dict[str, Any]
) -> dict[str, Any]:
    refused = (*((401,) if secured else ()), 409, 413, 415, 422, 503)
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": _json_content(_ref(body))},
        "responses": {"200": {"description": "Applied, and on the disk.", "content": _json_content(_ref(answer))},
                      **_refusals(*refused)},
        **secured,
    }  # fmt: skip


def _getting(name: str, summary: str, schema: dict[str, Any] | None, secured: dict[str, Any]) -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}} if schema is None else _json_content(schema)
    refused = (*((401,) if secured else ()), 503)
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "What was asked for.", "content": content}, **_refusals(*refused)},
        **secured,
    }
