"""What a user's tests of a FastAPI app need: `taskcore.testing`, by app instead of by scope.

Two ways to test an app, and what waits in each:

    synchronous    `with TestClient(app) as client:` runs the app, and its loop, in another
                   thread; `wait_idle_sync(app)`.
    asynchronous   `async with running(app):` runs it in the loop of the test, for an
                   `httpx` client with `ASGITransport`; `await wait_idle(app)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from fastapi_tasks._setup import middleware_of
from fastapi_tasks.errors import FastAPITasksLifespanError
from taskcore import Task, TaskScope, testing  # noqa: TID251 (this is for tests as well)
from taskcore.asgi import ASGIApp
from taskcore.testing import (  # noqa: TID251 (as above)
    IDLE_TIMEOUT,
    Scheduled,
    VirtualClockLoop,
)

__all__ = [
    "Scheduled",
    "record",
    "run_deferred",
    "running",
    "scope_of",
    "wait_idle",
    "wait_idle_sync",
]


def scope_of(app: FastAPI) -> TaskScope:
    """The scope of an app, while its lifespan runs.

    Args:
        app: The app that was given to `add_tasks`.

    Raises:
        FastAPITasksUninitializedAppError: The app has no `add_tasks`.
        FastAPITasksLifespanError: Its lifespan does not run.
        WrongLoopError: Several event loops serve it, and none of them is this one.
    """
    middleware = middleware_of(app)
    if middleware is None or not middleware.scopes:
        raise FastAPITasksLifespanError(
            f"app '{app.title}' has no scope now, as its lifespan does not run: write 'with "
            "TestClient(app) as client:', or 'async with running(app):' in an async test; of a "
            "mounted app, ask the outermost one"
        )
    return testing.scope_of(middleware)


async def wait_idle(
    app: FastAPI,
    *,
    timeout: float | None = IDLE_TIMEOUT,  # noqa: ASYNC109 (its error names the tasks)
) -> None:
    """Wait until every task that the app has accepted has ended, on the loop of the app.

    Deferred tasks of requests that go on are not waited for.

    Args:
        app: The app that was given to `add_tasks`.
        timeout: Seconds on the clock of the loop; `None` is no limit.

    Raises:
        NotIdleError: The time was over. It names the tasks that had not ended.
        WrongLoopError: The app runs on another loop: use `wait_idle_sync`.
        FastAPITasksError: As `scope_of`.

    Cancellation:
        Safe: nothing is touched.
    """
    await testing.wait_idle(scope_of(app), timeout=timeout)


def wait_idle_sync(app: FastAPI, *, timeout: float | None = IDLE_TIMEOUT) -> None:
    """Block until every task that the app has accepted has ended: for tests with `TestClient`.

    Args:
        app: The app that was given to `add_tasks`.
        timeout: Seconds of real time; `None` is no limit.

    Raises:
        NotIdleError: The time was over. It names the tasks that had not ended.
        WrongLoopError: Called on the loop of the app: use `wait_idle`.
        FastAPITasksError: As `scope_of`.
    """
    testing.wait_idle_sync(scope_of(app), timeout=timeout)


def run_deferred(app: FastAPI) -> list[Task[..., object]]:
    """Start at once what waits for its delay, or for a phase of a request that goes on.

    Args:
        app: The app that was given to `add_tasks`.

    Returns:
        The handles of what was started.

    Raises:
        FastAPITasksError: As `scope_of`.
    """
    return testing.run_deferred(scope_of(app))


def record(app: FastAPI) -> AbstractContextManager[list[Scheduled]]:
    """Write down what the app schedules, and run none of it.

    See `taskcore.testing.record`.

    Args:
        app: The app that was given to `add_tasks`.

    Returns:
        A context manager that gives the list, which grows with each call of `schedule`.

    Raises:
        FastAPITasksError: As `scope_of`.

    Example:
        from fastapi.testclient import TestClient
        from fastapi_tasks import Tasks, add_tasks

        add_tasks(app)

        @app.post("/orders")
        async def create_order(tasks: Tasks) -> None:
            tasks.after_response.schedule(fetch, url)

        with TestClient(app) as client, record(app) as scheduled:
            client.post("/orders")
        assert [(task.func, task.phase) for task in scheduled] == [(fetch, "after_response")]
    """
    return testing.record(scope_of(app))


@asynccontextmanager
async def running(app: FastAPI) -> AsyncGenerator[ASGIApp]:
    """Run the app's lifespan in the loop of the test, as `ASGITransport` does not.

    See `taskcore.testing.running`. On a virtual clock, time stands still while a `def`
    endpoint or dependency runs.

    Args:
        app: The app that was given to `add_tasks`.

    Yields:
        The app with the state of its lifespan in each request.

    Raises:
        FastAPITasksUninitializedAppError: The app has no `add_tasks`.
        RuntimeError: The app could not start, or its shutdown failed. Whatever it raised
            itself comes out instead.

    Cancellation:
        The app is told to shut down, and has done so when this ends.
    """
    middleware_of(app)
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualClockLoop):
        # A worker thread of FastAPI's gives its token back on the loop, so after it woke it.
        limiter = current_default_thread_limiter()
        loop.hold_while(lambda: limiter.borrowed_tokens > 0)
    async with testing.running(app) as served:
        yield served
