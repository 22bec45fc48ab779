"""The application that `sigterm` ends: the same code for every peer.

A task that ends after the teardown has lost its database by then. The journal is that
of `tests.servers.app`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, FastAPI

# Ours, or fastapi-tasks 0.1.0 from PyPI: whichever the interpreter finds.
from fastapi_tasks import Tasks, add_tasks

JOURNAL = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
SHIELD = os.environ["SHIELD"] == "True"


def note(event: str, key: str = "") -> None:
    """Write down an event."""
    os.write(JOURNAL, f"{os.getpid()} {event} {key}\n".encode())


async def work(key: str, seconds: float) -> None:
    """What a task does: it takes its time, and writes down that it was done."""
    await asyncio.sleep(seconds)
    note("done", key)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Tell when the resources of the application go away."""
    note("startup")
    try:
        yield
    finally:
        note("teardown", "app")


app = FastAPI(lifespan=lifespan)
add_tasks(app)


@app.post("/tasks/{key}")
async def with_tasks(key: str, seconds: float, tasks: Tasks) -> str:
    """Schedule two tasks: now, and for after the response."""
    moments: list[Any] = [tasks, tasks.after_response]
    for at, moment in enumerate(moments):
        moment.task(shield=SHIELD).schedule(work, f"{key}-{at}", seconds)
        note("accepted", f"{key}-{at}")
    return key


@app.post("/background/{key}")
async def with_background_tasks(key: str, seconds: float, background: BackgroundTasks) -> str:
    """Schedule two of Starlette's background tasks."""
    for at in range(2):
        background.add_task(work, f"{key}-{at}", seconds)
        note("accepted", f"{key}-{at}")
    return key
