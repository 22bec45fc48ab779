"""The application under overload: only every so many requests let a task end.

So its traffic is that many times what it can serve, however quick the machine is. Once
the drain has begun, every task may end.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fastapi_tasks import Tasks, add_tasks
from taskcore import ScopeState, current_scope
from taskcore.errors import BacklogFullError
from tests.servers.app import GRACE_PERIOD, note, report

LIMIT = int(os.environ["LIMIT"])
BACKLOG = int(os.environ["BACKLOG"])
OVERLOAD = int(os.environ["OVERLOAD"])  # requests for each task that may end

requests = count(1)
leave = asyncio.Semaphore(0)
leave_in_thread = threading.Semaphore(0)


async def work(key: str) -> None:
    """End when there is leave."""
    await leave.acquire()
    note("done", key)


def work_in_thread(key: str) -> None:
    """The same in a thread."""
    leave_in_thread.acquire()
    note("done", key)


async def let_all_end() -> None:
    """Give every task leave once the drain has begun."""
    scope = current_scope()
    while scope.state is ScopeState.OPEN:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)
    note("draining")
    for _ in range(2 * (LIMIT + BACKLOG)):
        leave.release()
        leave_in_thread.release()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Tell when the server is ready, and how many requests have come when it ends."""
    drain = asyncio.create_task(let_all_end())
    note("startup")
    yield
    await drain
    note("requests", str(next(requests) - 1))


app = FastAPI(lifespan=lifespan)
add_tasks(app, limit=LIMIT, backlog=BACKLOG, grace_period=GRACE_PERIOD, on_drain=report)


@app.exception_handler(BacklogFullError)
async def answer_503(request: Request, error: BacklogFullError) -> JSONResponse:
    """Answer as docs/howto/overload.md shows."""
    return JSONResponse({"detail": "too busy"}, 503, {"Retry-After": "5"})


@app.post("/coroutine/{key}")
async def with_coroutine(key: str, tasks: Tasks) -> str:
    """Schedule a task on the loop, which starts at once if it has a slot."""
    if next(requests) % OVERLOAD == 0:
        leave.release()
    tasks.task(name=key).schedule(work, key)
    note("accepted", key)
    return key


@app.post("/thread/{key}")
def with_thread(key: str, tasks: Tasks) -> str:
    """Schedule one that runs in a thread, from a thread, for after the response."""
    if next(requests) % OVERLOAD == 0:
        leave_in_thread.release()
    tasks.after_response.task(name=key).schedule(work_in_thread, key)
    note("accepted", key)
    return key
