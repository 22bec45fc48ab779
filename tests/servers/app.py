"""The application under test. What happens in it goes into a journal that outlives it.

A line of the journal is `process id, event, key`, written with one `write` to a file
opened for appending, so that no process can lose or mix up lines. A task is written
down as `accepted` once `schedule` has returned, and as `done` as the last thing it does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse

from fastapi_tasks import Task, Tasks, add_tasks
from taskcore import DrainReport, current_scope
from taskcore.spi import Scheduler

JOURNAL = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
GATE = Path(os.environ["GATE"])  # tasks that wait for it end when this file exists
GRACE_PERIOD = float(os.environ["GRACE_PERIOD"])
SHIELD_TIMEOUT = float(os.environ["SHIELD_TIMEOUT"])


def note(event: str, key: str = "") -> None:
    """Write down an event."""
    os.write(JOURNAL, f"{os.getpid()} {event} {key}\n".encode())


def report(report: DrainReport) -> None:
    """Write down what became of each task of a drain."""
    for field in fields(report):
        if field.name != "duration":
            for entry in getattr(report, field.name):
                note(f"reported-{field.name}", entry.name)


# -- what tasks do --------------------------------------------------------------------------


async def work(key: str, seconds: float) -> None:
    """Take some time."""
    await asyncio.sleep(seconds)
    note("done", key)


def work_in_thread(key: str, seconds: float) -> None:
    """Take some time in a thread."""
    time.sleep(seconds)
    note("done", key)


async def fail(key: str, seconds: float) -> None:
    """Fail after some time; `handle` does what is left to do."""
    await asyncio.sleep(seconds)
    raise OSError(key)


async def handle(task: Task[..., Any], error: BaseException) -> None:
    """Do the rest of a failed task's work."""
    await asyncio.sleep(0.01)
    note("done", str(error))


async def follow_up(key: str, seconds: float) -> None:
    """Schedule another task, also while the scope is being drained."""
    await asyncio.sleep(seconds)
    accept(current_scope(), f"{key}-next", work, seconds)
    note("done", key)


def gate_is_open() -> bool:
    """Whether the test has let the waiting tasks go on."""
    return GATE.exists()


async def wait_for_gate(key: str, seconds: float) -> None:
    """Take as long as the test wants."""
    note("waiting", key)
    try:
        while not gate_is_open():  # noqa: ASYNC110 - it is opened by another process
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note("cancelled", key)
        raise
    note("done", key)


async def swallow(key: str, seconds: float) -> None:
    """Ignore every cancellation."""
    note("waiting", key)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note("swallowed", key)


def get_stuck(key: str, seconds: float) -> None:
    """Block a thread."""
    note("waiting", key)
    time.sleep(3600)


def accept(scheduler: Scheduler, key: str, func: Any, seconds: float = 0.0) -> None:
    """Schedule a task, shielded if its key says so, and write it down once it is accepted."""
    task = scheduler.task(name=key, shield="shielded" in key, on_error=handle)
    task.schedule(func, key, seconds)
    note("accepted", key)


# -- the application ------------------------------------------------------------------------


@asynccontextmanager
async def router_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Tell when the router's resources go away."""
    try:
        yield
    finally:
        note("teardown", "router")


@asynccontextmanager
async def mounted_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Tell when those of the mounted application go away."""
    try:
        yield
    finally:
        note("teardown", "mounted")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Run the mounted application's lifespan inside ours; schedule a task in both halves."""
    accept(current_scope(), "start-up-shielded", work)
    try:
        async with mounted.router.lifespan_context(mounted):
            if "FAIL_START" in os.environ:
                accept(current_scope(), "failed-start-up-shielded", work, 0.1)
                raise OSError("no database")
            note("startup")
            yield
    finally:
        note("teardown", "app")
        accept(current_scope(), "teardown-shielded", work, 0.1)


mounted = FastAPI(lifespan=mounted_lifespan)
router = APIRouter(lifespan=router_lifespan)
app = FastAPI(lifespan=lifespan)
add_tasks(app, grace_period=GRACE_PERIOD, shield_timeout=SHIELD_TIMEOUT, on_drain=report)


def accept_at_every_moment(tasks: Tasks, key: str, seconds: float) -> None:
    """Schedule tasks of every kind in one request."""
    accept(tasks, f"now-{key}", work, seconds)
    accept(tasks, f"now-shielded-{key}", work, seconds)
    accept(tasks.after_route, f"route-shielded-{key}", work_in_thread, seconds)
    accept(tasks.after_response, f"response-{key}", work, seconds)
    accept(tasks.after_response, f"response-shielded-{key}", follow_up, seconds)
    accept(tasks.after_response, f"failing-shielded-{key}", fail, seconds)


@router.post("/async/{key}")
async def async_endpoint(key: str, seconds: float, tasks: Tasks) -> str:
    """Schedule on the loop."""
    accept_at_every_moment(tasks, key, seconds)
    await asyncio.sleep(seconds / 10)
    return key


@mounted.post("/thread/{key}")
def thread_endpoint(key: str, seconds: float, tasks: Tasks) -> str:
    """Schedule from a worker thread."""
    accept_at_every_moment(tasks, key, seconds)
    time.sleep(seconds / 10)
    return key


@router.post("/stream/{key}")
async def stream_endpoint(key: str, seconds: float, tasks: Tasks) -> StreamingResponse:
    """Schedule from the generator of a response that has begun."""

    def chunks() -> Iterator[str]:
        yield key[:1]
        accept_at_every_moment(tasks, key, seconds)
        time.sleep(seconds / 10)
        yield key[1:]

    return StreamingResponse(chunks())


@router.post("/schedule/{func}/{key}")
async def schedule_endpoint(func: str, key: str, tasks: Tasks) -> str:
    """Schedule one function of this file."""
    accept(tasks, key, globals()[func])
    return key


@router.post("/hang/{key}")
async def hanging_endpoint(key: str, tasks: Tasks) -> None:
    """Schedule a shielded task and never answer."""
    accept(tasks, f"now-shielded-{key}", work, 0.1)
    note("hanging", key)
    await asyncio.Event().wait()


@router.post("/events/{key}")
async def endless_endpoint(key: str, tasks: Tasks) -> StreamingResponse:
    """Send events without end."""

    async def events() -> AsyncIterator[str]:
        accept(tasks, f"now-shielded-{key}", work, 0.1)
        accept(tasks.after_response, f"response-shielded-{key}", work, 0.1)
        note("hanging", key)
        while True:
            yield "data: tick\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(events(), media_type="text/event-stream")


app.include_router(router)
app.mount("/mounted", mounted)
