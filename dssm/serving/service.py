"""The HTTP service: recommendations from a published version, over the exported user tower and an index."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dssm.errors import did_you_mean, no_objective
from dssm.serving.loaded import Loaded
from dssm.serving.metrics import CONTENT_TYPE, Metrics
from dssm.serving.reload import Current
from dssm.serving.requests import LONGEST_TEXT, MOST_ITEMS, RESCORE, faults
from dssm.serving.tower import FeaturesError, sent

LARGEST_BODY = 2**20
TITLE, DESCRIPTION = "dssm", "Recommendations from a two-tower model: its exported user tower and an index of items."

Count = Annotated[int, Query(ge=1, le=MOST_ITEMS, description="Items of the answer at most.")]
Objective = Annotated[str | None, Query(max_length=LONGEST_TEXT, description="Score by this objective's vectors.")]
Seen = Annotated[bool, Query(description="Also items that the user has seen.")]
Rescore = Annotated[int | None, Query(ge=1, le=MOST_ITEMS, description=RESCORE)]
BY = (
    "`by` says what the vector is made of: `samples`, the user's row of samples/users; `features`, those of the "
    "request; `cold`, nothing, also where other samples know the user: with `samples.users: all` all with an "
    "event before the test window have a row. What the user has seen before that is left out whatever it says."
)
Id = Annotated[str, Query(min_length=1, max_length=LONGEST_TEXT)]


class UnknownItemError(Exception):
    """No such item is published: 404."""


def make_app(current: Current, metrics: Metrics) -> FastAPI:
    """Returns the service.

    Args:
      current: what answers; its watch runs as long as the service does.
      metrics: shared with it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with current:
            yield

    app = FastAPI(title=TITLE, description=DESCRIPTION, lifespan=lifespan)
    app.add_middleware(Measured, metrics=metrics)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(UnknownItemError, _unknown)
    _add_answers(app, current)

    @app.get("/health", summary="What is loaded.")
    def health() -> dict[str, Any]:
        loaded = current.loaded
        sizes = {"items": len(loaded.items), "users": len(loaded.users)}
        return {"status": "ok", **loaded.facts, "loaded_at": loaded.at.isoformat(timespec="seconds"), **sizes}

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counts and times, as Prometheus reads them.")
    def measured() -> PlainTextResponse:
        loaded = current.loaded
        gauges = {"items": len(loaded.items), "users": len(loaded.users), "loaded_seconds": loaded.at.timestamp()}
        return PlainTextResponse(metrics.text(gauges, loaded.facts), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    def routes() -> PlainTextResponse:
        return PlainTextResponse(told_of_routes(app))

    def openapi() -> dict[str, Any]:
        return with_inputs(get_openapi(title=TITLE, version="1", routes=app.routes, description=DESCRIPTION), current)

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def told_of_routes(app: FastAPI) -> str:
    """Returns the routes as text, a line each: it needs no script of another host, as the page /docs does."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    told = {f"{' '.join(sorted(route.methods or ()))} {route.path}": route.summary or "" for route in routes}
    told["GET /openapi.json"] = "All of these with their parameters, for programs."
    told["GET /docs"] = "The same for people; the page loads its scripts over the network."
    width = max(map(len, told))
    return f"{DESCRIPTION}\n\n" + "".join(f"{route:<{width}}  {what}\n" for route, what in told.items())


def _add_answers(app: FastAPI, current: Current) -> None:
    checked = [Depends(known_parameters)]

    summary = "Top items for a user of samples/users, or a cold answer."

    @app.get("/recommend", summary=summary, description=BY, dependencies=checked)
    def recommend(
        user: Id, count: Count = 10, seen: Seen = False, objective: Objective = None, rescore: Rescore = None
    ) -> dict[str, Any]:
        loaded = current.loaded
        check_rescore(loaded, rescore, count, "query")
        return recommended(loaded, user, None, count, seen, checked_objective(loaded, objective), rescore)

    @app.post("/recommend", summary="Top items for raw features, or for a user of samples/users.", description=BY)
    async def recommend_for(request: Request) -> dict[str, Any]:
        loaded = current.loaded  # before the body: a swap in between must not part its check from its tower
        asked = parsed(loaded, await request.body())
        check_rescore(loaded, asked.rescore, asked.count, "body")
        features = None if asked.features is None else sent(asked.features)
        objective = getattr(asked, "objective", None)
        return await run_in_threadpool(
            recommended, loaded, asked.user, features, asked.count, asked.seen, objective, asked.rescore
        )  # fmt: skip

    @app.get("/similar", summary="Items whose vectors have the largest cosines to an item's.", dependencies=checked)
    def similar(item: Id, count: Count = 10, objective: Objective = None) -> dict[str, Any]:
        loaded = current.loaded
        place = loaded.items.place(item)
        if place is None:
            raise UnknownItemError(f"no item is '{item}'{loaded.items.hint(item)}")
        found = loaded.similar(place, count, checked_objective(loaded, objective))
        return {"version": loaded.manifest.version, "item": item, "items": loaded.told(found)}


def known_parameters(request: Request) -> None:
    """Raises: RequestValidationError that names a parameter of the address that the route has not."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    faults = [
        {"type": "extra_forbidden", "loc": ["query", name], "msg": f"no parameter '{name}'" + did_you_mean(name, known)}
        for name in request.query_params
        if name not in known
    ]
    if faults:
        raise RequestValidationError(faults)


def parsed(loaded: Loaded, body: bytes) -> Any:
    """Returns the checked body of POST /recommend. Raises: RequestValidationError that names the field."""
    try:
        return loaded.request.model_validate_json(body)
    except ValidationError as error:
        known: dict[tuple[str, ...], Iterable[str]] = {
            (): loaded.request.model_fields,
            ("features",): loaded.tower.signature.inputs,
        }
        raise RequestValidationError(faults(error, known)) from error


def checked_objective(loaded: Loaded, objective: str | None) -> str | None:
    """Raises: RequestValidationError where the model has no such objective."""
    if objective is None or objective in loaded.objectives:
        return objective
    fault = {"type": "value_error", "loc": ["query", "objective"], "msg": no_objective(objective, loaded.objectives)}
    raise RequestValidationError([fault])


def check_rescore(loaded: Loaded, rescore: int | None, count: int, part: str) -> None:
    """Raises: RequestValidationError where the model has no scorer, or fewer items are retrieved than asked for."""
    if rescore is None:
        return
    fault = {"type": "value_error", "loc": [part, "rescore"]}
    if loaded.rescorer is None:
        raise RequestValidationError([{**fault, "msg": "the model has no scorer; leave rescore out"}])
    if rescore < count:
        raise RequestValidationError([{**fault, "msg": f"Input should be greater than or equal to count, {count}"}])


def recommended(
    loaded: Loaded, user: str | None, features: dict[str, Any] | None, count: int, seen: bool, objective: str | None,
    rescore: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Returns top items: by the raw features where they are given, else by the user's vector of samples/users.

    A user without one gets the tower's answer for one of whom nothing is known, but not what it has seen.

    Args: rescore: how many are retrieved for the scorer; None: similarity alone orders them.
    """
    row = None if user is None or features is not None else loaded.users.place(user)
    by = "features" if features else "cold" if row is None else "samples"

    @functools.cache  # the scorer mostly takes the vector that was searched with
    def vector(objective: str | None) -> np.ndarray:
        return loaded.tower.vector(features or {}, objective) if row is None else loaded.user_vectors[objective][row]

    without = np.zeros(0, np.int32) if seen or user is None else loaded.seen.of(user)
    try:
        found = loaded.top(vector(objective), rescore or count, objective, without)
        if rescore is not None and loaded.rescorer is not None:
            found = loaded.rescored(loaded.rescorer, vector(loaded.rescorer.objective), found, count)
    except FeaturesError as error:
        told = [([name], fault) for name, fault in error.faults.items()] or [([], str(error))]
        faults = [{"type": "value_error", "loc": ["body", "features", *place], "msg": fault} for place, fault in told]
        raise RequestValidationError(faults) from error
    return {"version": loaded.manifest.version, "user": user, "by": by, "items": loaded.told(found)}


def with_inputs(schema: dict[str, Any], current: Current) -> dict[str, Any]:
    """Adds the body of POST /recommend, with the inputs of the tower that is loaded, to an OpenAPI document."""
    loaded = current.loaded
    body = loaded.request.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    schemas |= body.pop("$defs", {})
    schemas["Recommend"] = body
    content = {"schema": {"$ref": "#/components/schemas/Recommend"}}
    example = {"features": loaded.tower.signature.example, "count": 10}
    operation = schema["paths"]["/recommend"]["post"]
    operation["requestBody"] = {"required": True, "content": {"application/json": {**content, "example": example}}}
    invalid = {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}
    operation["responses"]["422"] = {
        "description": "A field is not as it should be.",
        "content": {"application/json": invalid},
    }
    return schema


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    """Says which field; what was sent is not sent back whole: it may be large, or no JSON."""
    assert isinstance(error, RequestValidationError)
    told = [{name: fault[name] for name in ("type", "loc", "msg")} for fault in error.errors()]
    return JSONResponse({"detail": told}, status_code=422)


async def _unknown(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=404)


class Measured:
    """Counts requests and their time by route and status, and refuses a body that is too large."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            body = await _body(receive)
            if body is None:
                answer = JSONResponse({"detail": f"a body has at most {LARGEST_BODY:,} bytes"}, status_code=413)
                await answer(scope, receive, sending)
            else:
                await self.app(scope, _replayed(body, receive), sending)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.add("requests", path=route, status=status)
            self.metrics.took(route, time.perf_counter() - began)


async def _body(receive: Receive) -> bytes | None:
    """Returns the whole body; None where it is too large, or its sender is gone."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
