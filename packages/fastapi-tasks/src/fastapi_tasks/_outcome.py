"""Tell the request's unit of work when the endpoint failed.

FastAPI turns an exception into a response before the outer ASGI call could see it, in
one of the app's exception handlers. `noting` makes such a handler tell the unit first.

A mounted app has handlers of its own, which `add_tasks` does not know. There, an
exception does pass through the two exit stacks that FastAPI keeps in the ASGI scope, so
`watch` pushes a callback onto each: the inner one hears of the endpoint and of the
response's validation, the outer one of dependencies that fail while they exit. The
stacks are not documented. Where one is missing, a warning says so once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import cache, wraps
from types import TracebackType
from typing import Any, TypeAlias, cast

import fastapi
from fastapi import WebSocketDisconnect
from starlette.requests import ClientDisconnect

from taskcore.asgi import LOST, UNIT
from taskcore.spi import Lifecycle

logger = logging.getLogger("fastapi_tasks")

DISCONNECT_ERRORS: tuple[type[BaseException], ...] = (ClientDisconnect, WebSocketDisconnect)
"""What endpoints raise when the client went away, which is no failure."""

ExceptionHandler: TypeAlias = Callable[[Any, Any], Any]

_FUNCTION_STACK = "fastapi_function_astack"
_REQUEST_STACK = "fastapi_inner_astack"
_WATCHED = "fastapi_tasks.watched"


def noting(handler: ExceptionHandler) -> ExceptionHandler:
    """Make an exception handler of the app note that the request failed."""

    def note(connection: Any, error: Exception) -> None:
        unit = connection.scope.get(UNIT)
        if unit is not None and not _is_disconnect(error):
            unit.fail()

    # A plain handler runs in a thread, an async one does not: of the same kind as before.
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__):

        @wraps(handler)
        async def noting_async(connection: Any, error: Exception) -> Any:
            note(connection, error)
            return await handler(connection, error)

        return noting_async

    @wraps(handler)
    def noting_plain(connection: Any, error: Exception) -> Any:
        note(connection, error)
        return handler(connection, error)

    return noting_plain


@cache
def _warn_once() -> None:
    logger.warning(
        "the exit stacks of FastAPI %s are not where they were: an exception that a mounted app "
        "answers, such as HTTPException, does not count as a failure for when=...; see "
        "docs/adapters/fastapi.md",
        fastapi.__version__,
    )


def _is_disconnect(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):  # as a task group raises it
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(_is_disconnect(one) for one in group.exceptions)
    return isinstance(error, DISCONNECT_ERRORS)


class _Watch:
    """Hears what leaves the inner exit stack of a request by `__exit__`, the outer by `__aexit__`.

    It may come onto them when the inner one has ended. An object with these methods, as a
    stack takes a function at twice the cost.
    """

    __slots__ = ("_unit",)

    def __init__(self, unit: Lifecycle) -> None:
        self._unit = unit

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not _is_disconnect(error):
            self._unit.fail()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Of dependencies, a cancellation may come after the whole response, and what the server
        # raised because the client is gone is no failure: the ASGI layer judges both.
        lost = self._unit.origin.get(LOST)
        if error is not lost and not isinstance(error, asyncio.CancelledError):
            self.__exit__(kind, error, traceback)


def watch(unit: Lifecycle) -> None:
    """Let `unit` hear of the endpoint's failure. Does nothing the second time."""
    scope = unit.origin
    function_stack = scope.get(_FUNCTION_STACK)
    request_stack = scope.get(_REQUEST_STACK)
    if not isinstance(function_stack, AsyncExitStack) or not isinstance(
        request_stack, AsyncExitStack
    ):
        if "endpoint" in scope:  # else a middleware asks, before FastAPI could make them
            _warn_once()
    elif scope.get(_WATCHED) is not request_stack:
        scope[_WATCHED] = request_stack
        one: Any = _Watch(unit)  # it is not entered, so it has no `__enter__`
        function_stack.push(one)
        request_stack.push_async_exit(one)
