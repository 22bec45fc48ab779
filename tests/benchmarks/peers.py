"""Every way to run no-op coroutines in the background that we compare.

Each schedules `n` of them and waits until they have finished, in its library's own way.
Loops are written out in each, so that none pays for a call that others do not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import aiojobs
import aiotools
import anyio
from asgi_background import BackgroundTaskMiddleware
from asgi_background import BackgroundTasks as ASGIBackground
from starlette.background import BackgroundTasks

from taskcore import TaskConfig, TaskScope
from tests.benchmarks.promises import AIOJOBS, BASE, PLAIN, REFERENCE

# The peer from PyPI: this module runs where ours is not installed.
from fastapi_tasks.tasks import TasksScheduler  # isort: skip

logger = logging.getLogger("benchmarks")

Peer: TypeAlias = Callable[[int], Awaitable[None]]


async def noop() -> None:
    """What every task does."""


async def on_error(task: object, error: BaseException) -> None:
    """An error handler that is never called."""


async def bare(n: int) -> None:
    """The bare safe idiom: a strong set, and a callback that looks at the exception."""
    tasks: set[asyncio.Task[None]] = set()

    def done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task failed", exc_info=error)

    for _ in range(n):
        task = asyncio.create_task(noop())
        tasks.add(task)
        task.add_done_callback(done)
    while tasks:  # noqa: ASYNC110 (cheaper than any event or asyncio.wait())
        await asyncio.sleep(0)


async def task_group(n: int) -> None:
    """`asyncio.TaskGroup`."""
    async with asyncio.TaskGroup() as group:
        for _ in range(n):
            group.create_task(noop())


async def anyio_group(n: int) -> None:
    """anyio's task group."""
    async with anyio.create_task_group() as group:
        for _ in range(n):
            group.start_soon(noop)


async def aiotools_scope(n: int) -> None:
    """aiotools' `TaskScope`."""
    async with aiotools.TaskScope() as scope:
        for _ in range(n):
            scope.create_task(noop())


async def aiojobs_closed(n: int) -> None:
    """aiojobs, without its limit, and its own wait for the end."""
    scheduler = aiojobs.Scheduler(limit=None)
    for _ in range(n):
        await scheduler.spawn(noop())
    await scheduler.wait_and_close()


async def aiojobs_spawned(n: int) -> None:
    """aiojobs where jobs end long before the scheduler does, and nobody waits for them."""
    async with aiojobs.Scheduler(limit=None) as scheduler:
        for _ in range(n):
            await scheduler.spawn(noop())
        while len(scheduler):  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0)


async def starlette_tasks(n: int) -> None:
    """Starlette's `BackgroundTasks`: one after the other, in no task of their own."""
    tasks = BackgroundTasks()
    for _ in range(n):
        tasks.add_task(noop)
    await tasks()


async def asgi_background(n: int) -> None:
    """asgi-background: its middleware, without a server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        tasks = ASGIBackground(scope)
        for _ in range(n):
            await tasks.add_task(noop)

    messages: asyncio.Queue[Any] = asyncio.Queue()
    started = asyncio.Event()

    async def send(message: Any) -> None:
        started.set()

    middleware = BackgroundTaskMiddleware(app)
    messages.put_nowait({"type": "lifespan.startup"})
    lifespan = asyncio.ensure_future(
        middleware({"type": "lifespan", "state": {}}, messages.get, send)
    )
    await started.wait()
    await middleware({"type": "http"}, messages.get, send)
    messages.put_nowait({"type": "lifespan.shutdown"})
    await lifespan


async def reference(n: int) -> None:
    """fastapi-tasks 0.1.0 from PyPI."""
    async with anyio.create_task_group() as group:
        tasks = TasksScheduler(group)
        for _ in range(n):
            tasks.schedule(noop)


async def ours(n: int) -> None:
    """`scope.schedule`."""
    async with TaskScope() as scope:
        for _ in range(n):
            scope.schedule(noop)


async def ours_config_once(n: int) -> None:
    """`scope.task(...)`, kept and used often."""
    async with TaskScope() as scope:
        configured = scope.task(name="noop", shield=True, on_error=on_error)
        for _ in range(n):
            configured.schedule(noop)


async def ours_config_default(n: int) -> None:
    """`TaskScope(config=...)`: defaults of every task."""
    config = TaskConfig(name="noop", shield=True, on_error=on_error)
    async with TaskScope(config=config) as scope:
        for _ in range(n):
            scope.schedule(noop)


async def ours_config_each(n: int) -> None:
    """`scope.task(...).schedule(...)` for each task."""
    async with TaskScope() as scope:
        for _ in range(n):
            scope.task(name="noop", shield=True, on_error=on_error).schedule(noop)


async def ours_limit_free(n: int) -> None:
    """Under a limit that is not reached."""
    async with TaskScope(limit=1_000_000) as scope:
        for _ in range(n):
            scope.schedule(noop)


async def ours_limit_and_backlog(n: int) -> None:
    """Under a limit and a backlog that are not reached."""
    async with TaskScope(limit=1_000_000, backlog=10) as scope:
        for _ in range(n):
            scope.schedule(noop)


async def ours_limit_waits(n: int) -> None:
    """Under `limit=50`, so that most tasks wait in the backlog."""
    async with TaskScope(limit=50) as scope:
        for _ in range(n):
            scope.schedule(noop)


async def ours_phase(n: int) -> None:
    """Through a phase of one unit of work."""
    async with TaskScope() as scope, scope.lifecycle("stored") as unit:
        phase = unit.phase("stored")
        for _ in range(n):
            phase.schedule(noop)


async def ours_phase_looked_up(n: int) -> None:
    """Through a phase that is looked up for each task."""
    async with TaskScope() as scope, scope.lifecycle("stored", "answered") as unit:
        for _ in range(n):
            unit.phase("answered").schedule(noop)


async def ours_unit_each(n: int) -> None:
    """A whole unit of work for each task: made, entered, a task deferred, left."""
    async with TaskScope() as scope:
        for _ in range(n):
            async with scope.lifecycle("stored", "answered") as unit:
                unit.phase("answered").schedule(noop)


VARIANTS: dict[str, Peer] = {
    BASE: bare,
    PLAIN: ours,
    "taskcore, config made once": ours_config_once,
    "taskcore, config of the scope": ours_config_default,
    "taskcore, config per call": ours_config_each,
    "taskcore, limit not reached": ours_limit_free,
    "taskcore, limit and backlog not reached": ours_limit_and_backlog,
    "taskcore, limit=50, tasks wait": ours_limit_waits,
    "taskcore, phase": ours_phase,
    "taskcore, phase looked up per task": ours_phase_looked_up,
    "taskcore, unit of work per task": ours_unit_each,
    "asyncio.TaskGroup": task_group,
    "anyio task group": anyio_group,
    "aiotools TaskScope": aiotools_scope,
    "asgi-background": asgi_background,
    "Starlette BackgroundTasks": starlette_tasks,
    "aiojobs, spawn()": aiojobs_spawned,
    AIOJOBS: aiojobs_closed,
    REFERENCE: reference,
}
