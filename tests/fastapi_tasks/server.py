"""A server that calls an ASGI application on the test's own loop, and notes what it is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, TypeAlias

from tests.helpers import Journal

Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[..., Awaitable[None]]


async def note(journal: Journal, event: object) -> None:
    """Write an event down: a task for tests of order."""
    journal.add(event)


class Connection:
    """One call of an application: a request, a websocket or the lifespan.

    What the application sends is noted when the server gets it (`start 200`, `chunk`,
    `last`, or the message's type), and `done` when the call has returned.

    Attributes:
        sent: The messages that the application has sent.
        call: The asyncio task of the call.
    """

    def __init__(self, app: App, scope: dict[str, Any], journal: Journal) -> None:
        self.sent: list[Message] = []
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._journal = journal
        self._lost = False
        self._progress = asyncio.Event()
        self.call = asyncio.create_task(self._run(app, scope))

    @property
    def status(self) -> int:
        """The status of the response."""
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        """The body of the response, as far as it was sent."""
        return b"".join(message.get("body", b"") for message in self.sent)

    def json(self) -> Any:
        """The body of the response, decoded."""
        return json.loads(self.body)

    def give(self, kind: str, **facts: object) -> None:
        """Give a message to the application."""
        self._incoming.put_nowait({"type": kind, **facts})

    def lose(self) -> None:
        """Let the client go away: the next message that is sent raises an `OSError`."""
        self._lost = True

    async def wait_sent(self, kind: str) -> None:
        """Wait until the application has sent a message of this type, or has returned."""
        while not self.call.done() and kind not in [message["type"] for message in self.sent]:
            self._progress.clear()
            await self._progress.wait()

    async def _run(self, app: App, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._incoming.get, self._send)
        finally:
            self._journal.add("done")
            asyncio.get_running_loop().call_soon(self._progress.set)

    async def _send(self, message: Message) -> None:
        if self._lost:
            raise OSError("the client is gone")
        self.sent.append(message)
        self._journal.add(_event(message))
        self._progress.set()


def _event(message: Message) -> str:
    match message["type"]:
        case "http.response.start":
            return f"start {message['status']}"
        case "http.response.body":
            return "chunk" if message.get("more_body") else "last"
        case kind:
            return str(kind)


class Server:
    """Runs the lifespan of an application around a block, and makes requests in it.

    Args:
        app: The application.
        journal: Where requests are noted; the lifespan is not.

    Example:
        async with Server(app, journal) as server:
            assert (await server.get("/")).status == 200
    """

    def __init__(self, app: App, journal: Journal | None = None) -> None:
        self._app = app
        self._journal = journal or Journal()

    async def __aenter__(self) -> Server:
        """Start the application; raises what its start-up raised."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.lifespan = Connection(self._app, scope, Journal())
        self.lifespan.give("lifespan.startup")
        await self.lifespan.wait_sent("lifespan.startup.complete")
        if self.lifespan.call.done():
            await self.lifespan.call
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the application; raises what its teardown raised."""
        self.lifespan.give("lifespan.shutdown")
        await self.lifespan.call

    async def get(self, path: str) -> Connection:
        """Make a request and wait until the call has returned; raises what it raised."""
        connection = self.open(path)
        await connection.call
        return connection

    def open(
        self,
        path: str,
        *,
        kind: str = "http",
        spec_version: str = "2.3",
        method: str = "GET",
        body: bytes | None = b"",
    ) -> Connection:
        """Begin a request or, with `kind="websocket"`, a websocket.

        Args:
            path: Path and query.
            kind: The type of the ASGI scope.
            spec_version: What servers up to uvicorn's say is 2.3; from 2.4 on, sending to
                a client that went away raises.
            method: The request's.
            body: The request's; `None` if it is not sent at once.
        """
        path, _, query = path.partition("?")
        scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "http_version": "1.1",
            "method": method,
            "headers": [(b"host", b"test"), (b"accept-encoding", b"gzip")],
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "server": ("test", 80),
            "client": ("client", 1),
        }
        connection = Connection(self._app, scope, self._journal)
        if kind == "websocket":
            connection.give("websocket.connect")
        elif body is not None:
            connection.give("http.request", body=body, more_body=False)
        return connection
