"""The application in which `compare` tries each library, and the server's part of its life."""

# Without `annotations` from __future__: FastAPI reads those of the endpoints in `build`.
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiojobs
from fastapi import BackgroundTasks, Depends, FastAPI

# Ours, or fastapi-tasks 0.1.0 from PyPI: whichever the interpreter finds.
from fastapi_tasks import Tasks, add_tasks


@dataclass
class Ways:
    """How to schedule in one library, as `way(func, *args)`; `None` where it has no such way."""

    now: Any = None
    after_route: Any = None
    after_response: Any = None
    shielded: Any = None
    cancel: str = "cancel"

    @property
    def some(self) -> Any:
        """The way that is its usual one."""
        return self.now or self.after_response


Use = Callable[[Ways], Awaitable[None]]


@dataclass
class Site:
    """One application, and the server's part of its life.

    Attributes:
        peer: Which library runs its tasks.
        use: What its endpoint does.
        options: For the owner of the tasks.
        events: What happened, in order.
    """

    peer: str
    use: Use | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    events: list[str] = field(default_factory=list[str])

    async def note(self, event: str, seconds: float = 0.0) -> str:
        """A task: takes its time, and writes down that it was done."""
        await asyncio.sleep(seconds)
        self.events.append(event)
        return event

    async def run(self) -> None:
        """Start, serve one request, stop when it has ended."""
        await self.start()
        await self.get()
        await self.stop()

    async def start(self) -> None:
        """Let the application start up."""
        self.app = build(self)
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        started = asyncio.Event()

        async def send(message: Any) -> None:
            started.set()

        self.messages.put_nowait({"type": "lifespan.startup"})
        self.state: dict[str, Any] = {}
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        self.lifespan = asyncio.ensure_future(self.app(scope, self.messages.get, send))
        await started.wait()

    async def stop(self) -> None:
        """Let it shut down, and wait for that."""
        self.messages.put_nowait({"type": "lifespan.shutdown"})
        await self.lifespan

    async def get(self, path: str = "/") -> None:
        """Send it a request, and wait for its end."""
        request = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return request.pop() if request else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.events.append("first byte")
            elif not message.get("more_body"):
                self.events.append("last byte")

        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": []}
        scope |= {"query_string": b"", "http_version": "1.1", "state": dict(self.state)}
        with suppress(Exception):  # a server logs what comes out of an application
            await self.app(scope, receive, send)


def build(site: Site) -> Any:
    """The application of a peer, as its documentation shows it."""
    owner: Any = None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal owner
        async with AsyncExitStack() as stack:
            stack.callback(site.events.append, "teardown")
            if site.peer == "aiojobs":
                owner = await stack.enter_async_context(aiojobs.Scheduler(**site.options))
            elif site.peer == "group":
                owner = await stack.enter_async_context(asyncio.TaskGroup())
            yield

    async def session() -> AsyncIterator[None]:
        yield
        await site.note("commit", 0.01)

    async def use(ways: Ways) -> None:
        if site.use is not None:
            await site.use(ways)
        site.events.append("endpoint")

    async def with_background(tasks: BackgroundTasks) -> None:
        await use(Ways(after_response=tasks.add_task))

    async def with_tasks(tasks: Tasks) -> None:
        at: Any = tasks
        schedule = at.after_route.schedule, at.after_response.schedule
        await use(Ways(at.schedule, *schedule, at.task(shield=True).schedule))

    async def with_aiojobs() -> None:
        async def shield(func: Any, *args: Any) -> None:
            await owner.shield(func(*args))

        def spawn(func: Any, *args: Any) -> Any:
            return owner.spawn(func(*args))

        await use(Ways(spawn, shielded=lambda *call: spawn(shield, *call), cancel="close"))

    async def with_group() -> None:
        async def shield(func: Any, *args: Any) -> None:
            await asyncio.shield(func(*args))

        def create(func: Any, *args: Any) -> Any:
            return owner.create_task(func(*args))

        await use(Ways(create, shielded=lambda *call: create(shield, *call)))

    app = FastAPI(lifespan=lifespan)
    if site.peer in ("peer", "ours"):
        add_tasks(app, **site.options)
    endpoints: dict[str, Any] = {
        "background": with_background,
        "aiojobs": with_aiojobs,
        "group": with_group,
    }
    app.get("/", dependencies=[Depends(session)])(endpoints.get(site.peer, with_tasks))
    app.get("/plain")(lambda: None)
    return app
