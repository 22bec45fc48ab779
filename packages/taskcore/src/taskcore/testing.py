"""What a user's tests need: wait until idle, start at once, record, and a virtual clock.

The core imports nothing of this, and nothing here costs a scope anything until it is
called. What waits is for the scope's loop; the rest may be called there or in another
thread, such as that of a test with a synchronous client.

Invariants:
    - While a scope is recorded, tasks go the usual way in, with every check of it, and
      each ends as skipped where it would have been deferred or started. So the books of
      the scope, its observers and its drain see nothing that they do not know.
    - The handle of a recorded task ends at once, so whoever awaits it never hangs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from taskcore._call import name_of
from taskcore._clock import VirtualClockLoop, run_virtual
from taskcore._config import TaskConfig, check_seconds
from taskcore._phase import Lifecycle, Phase
from taskcore._scope import TaskScope
from taskcore._state import ScopeState, TaskState
from taskcore._task import AnyTask
from taskcore.asgi import ASGIApp, Message, Receive, Send, TasksMiddleware
from taskcore.errors import ConfigTypeError, NoCurrentScopeError, NotIdleError, WrongLoopError

__all__ = [
    "Scheduled",
    "VirtualClockLoop",
    "record",
    "run_deferred",
    "run_virtual",
    "running",
    "scope_of",
    "wait_idle",
    "wait_idle_sync",
]

T = TypeVar("T")

IDLE_TIMEOUT = 5.0
"""Seconds that a test waits for its tasks, unless it says otherwise."""
_NAMED = 10  # tasks that an error names at the most
_RECORDED = (
    "because record() kept it from running; assert on what was recorded, "
    "or schedule it outside of that block"
)


# -- until it is idle ------------------------------------------------------------------------


async def wait_idle(
    scope: TaskScope,
    *,
    timeout: float | None = IDLE_TIMEOUT,  # noqa: ASYNC109 (its error names the tasks)
) -> None:
    """Wait until every task that the scope has accepted has ended.

    Tasks deferred to a phase that has not come are not waited for; those that wait for
    their delay are.

    Args:
        scope: The scope, on whose loop it is called.
        timeout: Seconds on the clock of the loop; `None` is no limit.

    Raises:
        NotIdleError: The time was over. It names the tasks that had not ended.
        WrongLoopError: Called on another event loop than the scope's.

    Cancellation:
        Safe: nothing is touched.
    """
    _check_scope(scope)
    check_seconds("timeout", timeout, none="None for no limit")
    try:
        async with asyncio.timeout(timeout):
            await scope.wait_idle()
    except TimeoutError:
        raise _not_idle(scope, timeout) from None


def wait_idle_sync(scope: TaskScope, *, timeout: float | None = IDLE_TIMEOUT) -> None:
    """Block until every task has ended: `wait_idle` for another thread than the loop's.

    Args:
        scope: The scope; its loop runs in another thread.
        timeout: Seconds of real time; `None` is no limit.

    Raises:
        NotIdleError: The time was over. It names the tasks that had not ended.
        WrongLoopError: Called on the scope's own loop, or that loop does not run.
    """
    _check_scope(scope)
    check_seconds("timeout", timeout, none="None for no limit")
    if scope.state is ScopeState.CLOSED:
        return
    if scope._is_here():
        raise WrongLoopError(
            f"cannot block until scope '{scope.name}' is idle: its tasks run on this event "
            "loop, and would never end; write 'await wait_idle(...)'"
        )
    waiting = _submit(scope, scope.wait_idle())
    try:
        waiting.result(timeout)
    except TimeoutError:
        waiting.cancel()
        raise _not_idle(scope, timeout) from None


def _not_idle(scope: TaskScope, timeout: float | None) -> NotIdleError:
    tasks = list(scope._tasks)
    names = [f"'{task.name}' (id {task.id}, {task.state.value})" for task in tasks[:_NAMED]]
    if len(tasks) > _NAMED:
        names.append(f"{len(tasks) - _NAMED} more")
    return NotIdleError(
        f"scope '{scope.name}' is not idle after {timeout} s, it still has "
        f"{', '.join(names) or 'tasks that a thread has just scheduled'}; make them end, start "
        "what waits for its delay with run_deferred(...), or raise timeout=...",
        timeout or 0.0,
        tuple(task.name for task in tasks),
    )


# -- at once ---------------------------------------------------------------------------------


def run_deferred(target: TaskScope | Lifecycle | Phase) -> list[AnyTask]:
    """Start at once what waits for a phase, or for its delay.

    It is as if the phase came now, for these tasks alone: nothing is reached, and what is
    scheduled later waits as before. A task that `when` would skip goes on waiting.

    Args:
        target: A phase, for what waits for it; a unit of work, for what waits for any of
            its phases, in their order; or a scope, for what waits for a phase of any unit,
            and then for what waits for its delay.

    Returns:
        The handles of what was started, in this order. From another thread than the
        loop's, it returns when the loop has started them.

    Raises:
        WrongLoopError: Called in another thread, and the scope's loop does not run.
    """
    scope = target if isinstance(target, TaskScope) else _unit_of(target).scope
    if scope._is_here():
        return _start_waiting(target)

    async def on_loop() -> list[AnyTask]:
        return _start_waiting(target)

    return _submit(scope, on_loop()).result()


def _unit_of(target: Lifecycle | Phase) -> Lifecycle:
    if isinstance(target, Phase):
        return target._of
    if isinstance(target, Lifecycle):
        return target
    raise _no_scope(target)


def _start_waiting(target: TaskScope | Lifecycle | Phase) -> list[AnyTask]:
    if isinstance(target, TaskScope):
        units = dict.fromkeys(target._deferred.values())
        waiting = [task for unit in units for task in _waiting(unit)] + list(target._timers)
    else:
        waiting = _waiting(target)
    started: list[AnyTask] = []
    for task in waiting:
        if task.state is TaskState.DEFERRED:  # else cancelled by the start of one before it
            cast("TaskScope", task._scope)._start_now(task)
            started.append(task)
    return started


def _waiting(target: Lifecycle | Phase) -> list[AnyTask]:
    unit = _unit_of(target)
    deferred = unit._deferred or {}
    phases = (target._index,) if isinstance(target, Phase) else sorted(deferred)
    waiting = [task for index in phases for task in deferred.get(index, ())]
    return [task for task in waiting if task.config._runs_after[unit.failed]]


# -- recorded, and not run -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One call of `schedule` that was recorded.

    Attributes:
        func: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        phase: The name of the phase on which it was scheduled; `None` if on none.
        config: The settings in force: those of the scope, and what was set nearer to it.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    phase: str | None = None
    config: TaskConfig = field(default_factory=TaskConfig)

    @property
    def name(self) -> str:
        """`config.name`, or the function's qualified name: the name of the task."""
        return self.config.name or name_of(self.func)


@contextmanager
def record(scope: TaskScope) -> Generator[list[Scheduled]]:
    """Write down what is scheduled on a scope, its units and their phases, and run none of it.

    What would be refused is refused as ever. The handle that `schedule` returns ends at
    once, as skipped: awaiting it raises `TaskSkippedError`, which says so. What was
    scheduled before goes on.

    Args:
        scope: The scope. May be called in any thread.

    Yields:
        The list that grows with each call of `schedule`, in the order of the calls.

    Raises:
        RuntimeError: The scope is being recorded already.

    Example:
        async with TaskScope() as scope:
            with record(scope) as scheduled:
                scope.schedule(fetch, url)
        assert scheduled == [Scheduled(fetch, (url,))]
    """
    _check_scope(scope)
    if "_accept" in vars(scope):
        raise RuntimeError(
            f"scope '{scope.name}' is being recorded already; use the list of the outer record()"
        )
    scheduled: list[Scheduled] = []
    accept = scope._accept

    def note(
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        config: TaskConfig,
        unit: Lifecycle | None = None,
        index: int = 0,
    ) -> AnyTask:
        phase = None if unit is None else unit.phases[index]
        task = accept(func, args, kwargs, config, _Skipping(scope, (phase or "now",), config, None))
        scheduled.append(Scheduled(func, args, kwargs, phase, task.config))
        return task

    # Everything that is scheduled comes through `_accept`. An attribute of this one scope
    # costs the others nothing.
    scope._accept = note  # type: ignore[method-assign]
    try:
        yield scheduled
    finally:
        del scope._accept


class _Skipping(Lifecycle):
    """A unit of work that skips what is deferred to it."""

    __slots__ = ()

    def _defer(self, task: AnyTask, index: int) -> None:
        task._finish(TaskState.SKIPPED, _RECORDED)


# -- an application --------------------------------------------------------------------------


def scope_of(app: TasksMiddleware) -> TaskScope:
    """The scope of an application, while its lifespan runs.

    Args:
        app: The application, as it was wrapped.

    Returns:
        The scope of the running event loop. Where that has none, as in the thread of a
        test with a synchronous client: the scope of the one loop that serves `app`.

    Raises:
        ConfigTypeError: `app` is no `TasksMiddleware`.
        NoCurrentScopeError: The lifespan does not run.
        WrongLoopError: Several loops serve `app`, and none of them is this one.
    """
    if not isinstance(app, TasksMiddleware):
        raise ConfigTypeError(
            f"{app!r} is no TasksMiddleware; pass what wraps the application, or, of a FastAPI "
            "app with add_tasks, use fastapi_tasks.testing.scope_of(app)"
        )
    try:
        here: Any = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    scopes = dict(app.scopes)
    if here in scopes:
        return scopes[here]
    if not scopes:
        raise NoCurrentScopeError(
            "this application has no scope now, as its lifespan does not run; write "
            "'async with running(app):' or 'with TestClient(app):' around it"
        )
    if len(scopes) > 1:
        raise WrongLoopError(
            f"{len(scopes)} event loops serve this application, each with a scope of its own; "
            "ask on one of them"
        )
    return next(iter(scopes.values()))


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncGenerator[ASGIApp]:
    """Run the ASGI lifespan of an application in the loop of the test, as a server would.

    For clients that call the application on this loop and leave its lifespan alone, as
    `httpx.ASGITransport` does. Starlette's `TestClient` runs it itself.

    Args:
        app: Any ASGI application.

    Yields:
        The application with the state of its lifespan in each request: give this one to
        the client if the lifespan yields a state, as a server would hand it on.

    Raises:
        RuntimeError: The application could not start, or its shutdown failed. Whatever it
            raised itself comes out instead.

    Cancellation:
        The application is told to shut down, and has done so when this ends. A second
        cancellation cancels that.
    """
    lifespan = _Lifespan(app)
    try:
        await lifespan.ask("startup")
        try:
            yield lifespan.serve
        finally:
            await lifespan.ask("shutdown")
            await lifespan.call
    finally:
        lifespan.call.cancel()
        while not lifespan.call.done():  # only if we are cancelled ourselves: that goes on below
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((lifespan.call,))


class _Lifespan:
    """The server's side of one lifespan."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._questions: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._state: dict[str, Any] = {}
        self.call = asyncio.create_task(self._run(), name="lifespan")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        try:
            await self._app(scope, self._questions.get, self._answers.put)
        finally:
            self._answers.put_nowait({"type": "the end of its lifespan"})

    async def ask(self, moment: str) -> None:
        """Tell the application of a moment; raise unless it has come through it."""
        self._questions.put_nowait({"type": f"lifespan.{moment}"})
        answer = await self._answers.get()
        if answer["type"] != f"lifespan.{moment}.complete":
            await self.call
            raise RuntimeError(
                f"the application answered its {moment} with {answer['type']}: "
                f"{answer.get('message') or 'it gave no reason'}"
            )

    async def serve(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        await self._app({**scope, "state": self._state.copy()}, receive, send)


# -- what they share -------------------------------------------------------------------------


def _submit(scope: TaskScope, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Run a coroutine on the scope's loop, from another thread."""
    if scope.state is ScopeState.NEW or not scope._loop.is_running():
        coroutine.close()
        raise WrongLoopError(
            f"cannot reach scope '{scope.name}': its event loop does not run; call this while it "
            "does, such as inside of 'with TestClient(app):'"
        )
    return asyncio.run_coroutine_threadsafe(coroutine, scope._loop)


def _check_scope(scope: object) -> None:
    if not isinstance(scope, TaskScope):
        raise _no_scope(scope)


def _no_scope(given: object) -> ConfigTypeError:
    return ConfigTypeError(
        f"{given!r} is no TaskScope; of an application pass scope_of(app), and give a FastAPI "
        "app to the function of this name in fastapi_tasks.testing"
    )
