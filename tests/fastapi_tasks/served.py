"""An app for a real server process: it prints what happens, and waits for a line of its input."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from fastapi_tasks import Tasks, add_tasks
from taskcore import current_scope

released = asyncio.Event()


def say(*words: object) -> None:
    """Print one line at once."""
    print(*words, flush=True)


async def wait_for_release() -> None:
    """Let the charges end when the test says so."""
    await asyncio.to_thread(sys.stdin.readline)
    released.set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Hold what the charges need."""
    say("loop", type(asyncio.get_running_loop()).__module__)
    current_scope().task(shield=True).schedule(wait_for_release)
    yield
    say("teardown")


app = FastAPI(lifespan=lifespan)
add_tasks(app, grace_period=0, shield_timeout=30)


async def note(word: str) -> None:
    """Say a word."""
    say(word)


async def charge(order: int) -> None:
    """The task that must not be lost."""
    await released.wait()
    say("charged", order)


async def endless() -> None:
    """A task that only its cancellation ends."""
    await asyncio.Event().wait()


@app.get("/moments")
async def moments(tasks: Tasks) -> None:
    """Say each moment."""
    tasks.after_response.schedule(note, "after_response")
    tasks.after_route.schedule(note, "after_route")
    await tasks.schedule(note, "now")
    say("endpoint")


@app.get("/orders/{order}")
async def create_order(order: int, tasks: Tasks) -> None:
    """Charge after the response."""
    tasks.schedule(endless)
    tasks.after_response.task(shield=True).schedule(charge, order)
