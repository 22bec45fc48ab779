"""`Tasks`, the parameter annotation, and `current_tasks()`, the same without injection."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends
from fastapi.requests import HTTPConnection

from fastapi_tasks._outcome import watch
from fastapi_tasks.errors import FastAPITasksLifespanError, FastAPITasksUninitializedAppError
from taskcore.asgi import UNIT, RequestTasks
from taskcore.spi import current_unit


async def request_tasks(connection: HTTPConnection) -> RequestTasks:
    """The dependency behind `Tasks`.

    Raises:
        FastAPITasksUninitializedAppError: The app has no `add_tasks`.
        FastAPITasksLifespanError: The app's lifespan never ran.
    """
    scope = connection.scope
    if UNIT not in scope:
        raise FastAPITasksUninitializedAppError(
            "this app has no tasks: call add_tasks(app) after app = FastAPI(...), "
            "on the outermost app if it is mounted"
        )
    unit = scope[UNIT]
    if unit is None:
        raise FastAPITasksLifespanError(
            "this app's lifespan never ran through ASGI, so nothing would end its tasks: in tests "
            "write 'with TestClient(app) as client:', or 'async with running(app):' of "
            "fastapi_tasks.testing (app.router.lifespan_context(app) runs inside of what "
            "add_tasks wraps, and does not count); on a server leave out "
            "lifespan='off'; for a mounted app call add_tasks on the outermost app"
        )
    unit.origin = scope  # what the endpoint sees; a middleware may pass on a copy
    watch(unit)
    return RequestTasks(unit)


Tasks: TypeAlias = Annotated[RequestTasks, Depends(request_tasks)]
"""Annotation of a parameter of an endpoint or a dependency: `tasks: Tasks`."""


def current_tasks() -> RequestTasks:
    """The request's `Tasks` without injection, from anywhere below the endpoint.

    Works in threads and in the request's own tasks as well.

    Raises:
        FastAPITasksUninitializedAppError: There is no request, or its app has no `add_tasks`.
    """
    unit = current_unit()
    if unit is None or unit.origin is None:
        raise FastAPITasksUninitializedAppError(
            "there is no request with tasks here: call current_tasks() below an endpoint of an "
            "app with add_tasks(app), whose lifespan runs (in tests: 'with TestClient(app) as "
            "client:'); elsewhere use taskcore.current_scope()"
        )
    watch(unit)
    return RequestTasks(unit)
