"""The same FastAPI app without tasks, with ours, with the peers'; and a server by hand."""

# No `from __future__ import annotations`: FastAPI could not look up `library.Tasks`.

import asyncio
import importlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Annotated, Any

# The peer from PyPI has the name of ours, so it is loaded first and then forgotten.
import fastapi_tasks as reference_library  # isort: skip
from asgi_background import BackgroundTaskMiddleware
from asgi_background import BackgroundTasks as ASGIBackground
from fastapi import BackgroundTasks, Depends, FastAPI, Request

from tests.benchmarks.environments import FASTAPI_TASKS
from tests.benchmarks.promises import REFERENCE


def load_ours() -> ModuleType:
    """Our `fastapi_tasks`, beside the peer of that name."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastapi_tasks"]:
        del sys.modules[name]
    sys.path.insert(0, str(FASTAPI_TASKS))
    return importlib.import_module("fastapi_tasks")


reference: ModuleType = reference_library
ours = load_ours()

BLOCK = 0.05
"""Seconds for which a background function blocks its thread."""


async def noop() -> None:
    """A task."""


def block() -> None:
    """A background function that blocks."""
    time.sleep(BLOCK)


def new_app() -> FastAPI:
    """An app with a `def` endpoint."""
    app = FastAPI()

    @app.get("/sync")
    def endpoint() -> dict[str, int]:
        return {"order_id": 1}

    return app


def plain() -> FastAPI:
    """No tasks at all."""
    app = new_app()

    @app.get("/")
    async def endpoint() -> dict[str, int]:
        return {"order_id": 1}

    return app


async def nothing() -> None:
    """A dependency that does nothing."""


held: set[asyncio.Task[None]] = set()


def by_hand() -> FastAPI:
    """The least that FastAPI and asyncio ask: an empty dependency, and a bare task."""
    app = new_app()

    @app.get("/")
    async def endpoint(tasks: Annotated[None, Depends(nothing)]) -> dict[str, int]:
        task = asyncio.create_task(noop())
        held.add(task)
        task.add_done_callback(held.discard)
        return {"order_id": 1}

    return app


def injected_nothing() -> FastAPI:
    """An empty dependency alone."""
    app = new_app()

    @app.get("/")
    async def endpoint(tasks: Annotated[None, Depends(nothing)]) -> dict[str, int]:
        return {"order_id": 1}

    return app


def unused(library: Any) -> FastAPI:
    """`add_tasks`, and an endpoint that uses none."""
    app = plain()
    library.add_tasks(app)
    return app


def injected(library: Any) -> FastAPI:
    """`tasks: Tasks`, and nothing scheduled."""
    app = new_app()
    library.add_tasks(app)

    @app.get("/")
    async def endpoint(tasks: library.Tasks) -> dict[str, int]:
        return {"order_id": 1}

    return app


def one(library: Any) -> FastAPI:
    """One `after_response` task."""
    app = new_app()
    library.add_tasks(app)

    @app.get("/")
    async def endpoint(tasks: library.Tasks) -> dict[str, int]:
        tasks.after_response.schedule(noop)
        return {"order_id": 1}

    @app.get("/block")
    async def blocking(tasks: library.Tasks) -> None:
        tasks.after_response.schedule(block)

    return app


def three(library: Any) -> FastAPI:
    """Three tasks at three moments."""
    app = new_app()
    library.add_tasks(app)

    @app.get("/")
    async def endpoint(tasks: library.Tasks) -> dict[str, int]:
        tasks.schedule(noop)
        tasks.after_route.schedule(noop)
        tasks.after_response.schedule(noop)
        return {"order_id": 1}

    return app


def starlette_one() -> FastAPI:
    """One of Starlette's `BackgroundTasks`, which the request waits for."""
    app = new_app()

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> dict[str, int]:
        tasks.add_task(noop)
        return {"order_id": 1}

    @app.get("/block")
    async def blocking(tasks: BackgroundTasks) -> None:
        tasks.add_task(block)

    return app


def asgi_background_one() -> Any:
    """One task of asgi-background."""
    app = new_app()

    @app.get("/")
    async def endpoint(request: Request) -> dict[str, int]:
        await ASGIBackground(request.scope).add_task(noop)
        return {"order_id": 1}

    return BackgroundTaskMiddleware(app)


APPS: dict[str, Callable[[], Any]] = {
    "no tasks": plain,
    "an empty dependency": injected_nothing,
    "an empty dependency, bare create_task": by_hand,
    "add_tasks, not used": lambda: unused(ours),
    "injected, none scheduled": lambda: injected(ours),
    "one task": lambda: one(ours),
    "three tasks, three moments": lambda: three(ours),
    f"{REFERENCE}, not used": lambda: unused(reference),
    f"{REFERENCE}, one task": lambda: one(reference),
    f"{REFERENCE}, three tasks": lambda: three(reference),
    "Starlette BackgroundTasks, one": starlette_one,
    "asgi-background, one task": asgi_background_one,
}


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """What a server does, without sockets: gives a function that makes one request."""
    state: dict[str, Any] = {}
    messages: asyncio.Queue[Any] = asyncio.Queue()
    started = asyncio.Event()

    async def lifespan_send(message: Any) -> None:
        assert message["type"].endswith("complete"), message
        started.set()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    async def request(path: str) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"bench")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": state.copy(),
        }
        await app(scope, receive, send)

    messages.put_nowait({"type": "lifespan.startup"})
    lifespan = asyncio.ensure_future(
        app({"type": "lifespan", "state": state}, messages.get, lifespan_send)
    )
    await started.wait()
    yield request
    messages.put_nowait({"type": "lifespan.shutdown"})
    await lifespan
