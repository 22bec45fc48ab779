"""An example's ASGI application; when its responses begin and end goes into its own journal."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

JOURNAL = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND)
example: Any = import_module(os.environ["EXAMPLE"]).app


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve one connection of the example."""

    def note(event: str) -> None:
        key = scope["path"].rpartition("/")[2]
        os.write(JOURNAL, f"{os.getpid()} {event} {key}\n".encode())

    async def send_and_note(message: Any) -> None:
        if message["type"] == "http.response.start":
            note("first-byte")
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            note("last-byte")

    await example(scope, receive, send_and_note)
