"""ASGI's lifespan, request and websocket messages mapped onto a scope and its phases.

`TasksMiddleware` wraps an ASGI application, outermost, and imports no framework:

    lifespan    A scope is open from before the application's start-up. It is drained when
                the server asks for shutdown, before the application hears of it. A
                second scope is open during the application's own teardown.
    http        Each request is a unit of work. `after_route` is reached before the first
                message of the response is passed on, `after_response` when the
                application has returned.
    websocket   Both are reached when the application has returned.

The unit has failed when the application raised, unless because the client went away.
An exception that a framework turns into a response must be noted by that framework's
adapter: `unit.fail()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, TypeAlias, Unpack, cast

from taskcore._config import TaskConfig
from taskcore._intake import current_scope_var
from taskcore._phase import Lifecycle, Phase, current_unit_var
from taskcore._scheduler import Configured, configured
from taskcore._scope import ScopeOptions, TaskScope
from taskcore.errors import NoCurrentScopeError

__all__ = [
    "AFTER_RESPONSE",
    "AFTER_ROUTE",
    "LOST",
    "UNIT",
    "RequestTasks",
    "TasksMiddleware",
    "current_tasks",
]

Message: TypeAlias = MutableMapping[str, Any]
ASGIScope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]

AFTER_ROUTE = "after_route"
"""The phase that is reached when the endpoint has returned and nothing has been sent."""
AFTER_RESPONSE = "after_response"
"""The phase that is reached when the response has gone out."""
UNIT = "taskcore.unit"
"""Key of the ASGI scope: the request's `Lifecycle`; `None` if the lifespan never ran."""

LOST = "taskcore.lost"
"""Key of the ASGI scope: what the server raised when it could not send, which is no failure."""

_PHASES = (AFTER_ROUTE, AFTER_RESPONSE)


class RequestTasks(Configured):
    """Schedules tasks at the three moments of one request.

    `tasks.schedule(f)` starts at once, `tasks.after_route.schedule(f)` when the endpoint
    has returned and nothing has been sent, `tasks.after_response.schedule(f)` when the
    response has gone out. Each of the three has `task(...)` for options.

    Pitfalls:
        Wrong: `tasks.schedule(send_mail(address))`. Right: `tasks.schedule(send_mail, address)`.
    """

    __slots__ = ("_request",)

    def __init__(self, unit: Lifecycle) -> None:
        """Made by an adapter, or by `current_tasks()`."""
        self._intake = unit._intake
        self._unit = None  # at once, unless on one of the moments
        self._index = 0
        self.config: TaskConfig = unit.config
        self._request = unit

    @property
    def after_route(self) -> Phase:
        """The moment when the endpoint has returned, before any byte of the response."""
        unit = self._request
        return configured(Phase, self._intake, unit.config, unit, 0)

    @property
    def after_response(self) -> Phase:
        """The moment when the response has gone out and the framework has left the request."""
        unit = self._request
        return configured(Phase, self._intake, unit.config, unit, 1)

    @property
    def scope(self) -> TaskScope:
        """The application's scope, which outlives the request."""
        return self._request.scope


def current_tasks() -> RequestTasks:
    """The tasks of the request that the caller belongs to, also in threads and in its tasks.

    Raises:
        NoCurrentScopeError: There is no request, or the application's lifespan never ran.
    """
    unit = current_unit_var.get()
    if unit is None or unit.origin is None:
        raise NoCurrentScopeError(
            "there is no request with tasks here: wrap the application in TasksMiddleware, let "
            "its lifespan run, and call current_tasks() below an endpoint; elsewhere use "
            "taskcore.current_scope()"
        )
    return RequestTasks(unit)


class TasksMiddleware:
    """Give an ASGI application a scope, and each request a unit of work.

    Inside another one (a mounted application) whose lifespan runs while its own does not,
    it uses the outer scope and the outer moments, with its own `config` on top.

    Args:
        app: The application. Wrap it outermost, so that the moments are exact.
        disconnect_errors: What the framework raises when the client went away, which is
            no failure.
        **options: Those of `TaskScope`.

    Raises:
        ConfigError: An option makes no sense.

    Example:
        app = TasksMiddleware(app, limit=100, grace_period=5.0)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        disconnect_errors: tuple[type[BaseException], ...] = (),
        **options: Unpack[ScopeOptions],
    ) -> None:
        """Wrap `app`; the options are checked now and used at each start-up."""
        self.app = app
        self.disconnect_errors = disconnect_errors
        self._options: ScopeOptions = {"name": "app", **options}
        TaskScope(**self._options)  # so that a wrong option is refused here
        self._scopes: dict[asyncio.AbstractEventLoop, TaskScope] = {}

    @property
    def scopes(self) -> Mapping[asyncio.AbstractEventLoop, TaskScope]:
        """The scope of each event loop on which the application's lifespan runs now."""
        return self._scopes

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the lifespan."""
        kind = scope["type"]
        tasks = self._scopes.get(asyncio.get_running_loop())
        if tasks is None or (kind != "http" and kind != "websocket"):
            await self._serve_without_scope(scope, receive, send)
            return
        unit = _RequestUnit(tasks, scope)
        outer = scope.get(UNIT)
        scope[UNIT] = unit
        scope_token = current_scope_var.set(tasks)
        unit_token = current_unit_var.set(unit)
        try:
            await self.app(scope, receive, partial(unit.send, send))
        except BaseException as error:
            if not unit.excuses(error, self.disconnect_errors):
                unit.fail()
            raise
        finally:
            current_unit_var.reset(unit_token)
            current_scope_var.reset(scope_token)
            scope[UNIT] = outer  # or each request would leave a cycle behind
            if unit._lost is not None:
                unit._lost = None  # its traceback leads back here
                unit.origin.pop(LOST, None)
            unit._reach(2)

    async def _serve_without_scope(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _Lifespan(self.app, receive, send, self._scopes, self._options).run(scope)
            return
        if scope["type"] in ("http", "websocket"):
            outer: Lifecycle | None = scope.setdefault(UNIT, None)
            config = self._options.get("config")
            if outer is not None and config is not None:
                outer.refine(config)
        await self.app(scope, receive, send)


class _RequestUnit(Lifecycle):
    """The unit of work of one request, which sees what goes out and so knows its moments.

    It holds nothing of the server's, as tasks hold it, and may outlive the request.
    """

    __slots__ = ("_complete", "_lost")

    def __init__(self, tasks: TaskScope, origin: ASGIScope) -> None:
        Lifecycle.__init__(self, tasks, _PHASES, tasks.config, None)
        self.origin = origin
        self.driver = asyncio.current_task()
        self._complete = False
        self._lost: OSError | None = None  # what the server raised since the client is gone

    async def send(self, send: Send, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._reach(1):  # after_route
                # One turn of the loop, in which they start: before any byte is sent.
                await asyncio.sleep(0)
        elif kind == "http.response.pathsend" or (
            kind == "http.response.body" and not message.get("more_body", False)
        ):
            self._complete = True
        try:
            await send(message)
        except OSError as error:
            self._lost = self.origin[LOST] = error
            raise

    def excuses(
        self, error: BaseException, disconnect_errors: tuple[type[BaseException], ...]
    ) -> bool:
        """Whether the request succeeded although `error` came out of it."""
        if isinstance(error, asyncio.CancelledError):
            return self._complete
        if isinstance(error, BaseExceptionGroup):  # as a task group raises it
            group = cast("BaseExceptionGroup[BaseException]", error)
            return all(self.excuses(one, disconnect_errors) for one in group.exceptions)
        at: BaseException | None = error
        seen: set[int] = set()  # `raise error from error` makes a ring
        while at is not None and id(at) not in seen:
            if at is self._lost or isinstance(at, disconnect_errors):
                return True
            seen.add(id(at))
            at = at.__cause__ or at.__context__
        return False


class _Lifespan:
    """One run of the application's lifespan, with the scopes around it.

    Invariant: the application does not hear of its end, by a message or by a
    cancellation, before the tasks that use its resources have ended; the server does not
    hear of it before those of the teardown have.
    """

    def __init__(
        self,
        app: ASGIApp,
        receive: Receive,
        send: Send,
        scopes: dict[asyncio.AbstractEventLoop, TaskScope],
        options: ScopeOptions,
    ) -> None:
        self._app = app
        self._receive = receive
        self._send = send
        self._scopes = scopes
        self._options = options
        self._main = TaskScope(**options)
        self._teardown: TaskScope | None = None
        self._asked = False

    async def run(self, scope: ASGIScope) -> None:
        loop = asyncio.get_running_loop()
        if loop in self._scopes:
            raise RuntimeError(
                "the application's lifespan runs already on this event loop; "
                "serve a second instance of the application, or stop the first"
            )
        async with self._main:
            self._scopes[loop] = self._main
            try:
                try:
                    await self._app(scope, self._hear, self._tell)
                except Exception:
                    if self._asked:
                        raise
                if not self._asked:  # it refused, or ignored: it has no lifespan of its own
                    await self._hear()
                    await self._tell({"type": "lifespan.startup.complete"})
                    await self._hear()
                    await self._tell({"type": "lifespan.shutdown.complete"})
            finally:
                await self._drain()
                del self._scopes[loop]

    async def _hear(self) -> Any:
        self._asked = True
        try:
            message = await self._receive()
        except BaseException:
            await self._begin_teardown()
            raise
        if message["type"] == "lifespan.shutdown":
            await self._begin_teardown()
        return message

    async def _tell(self, message: Message) -> None:
        if message["type"] != "lifespan.startup.complete":
            await self._drain()
        await self._send(message)

    async def _begin_teardown(self) -> None:
        """End what uses the application's resources; take what the teardown schedules."""
        try:
            await self._main.drain_uncancelled()
        finally:
            self._teardown = TaskScope(**self._options)
            await self._teardown.__aenter__()

    async def _drain(self) -> None:
        if self._teardown is None:
            await self._main.drain_uncancelled()
        else:
            await self._teardown.drain_uncancelled(quiet=True)
