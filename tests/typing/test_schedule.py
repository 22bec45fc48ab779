"""Read by type checkers, never run: what `schedule` accepts, and what it gives back."""

from functools import partial
from typing import Any, assert_type

from fastapi_tasks import Tasks, current_tasks
from taskcore import Task, TaskConfig, TaskScope


async def fetch(url: str, *, retries: int = 3) -> bytes:
    """A coroutine function."""
    return url.encode() * retries


def count(text: str) -> int:
    """A plain function."""
    return len(text)


class Mailer:
    """Something with methods."""

    async def send(self, address: str) -> bool:
        """A coroutine method."""
        return bool(address)


async def accepted(scope: TaskScope) -> None:
    """What must hold."""
    assert_type(await scope.schedule(fetch, "https://example.org", retries=1), bytes)
    assert_type(await scope.schedule(count, "text"), int)
    assert_type(await scope.schedule(Mailer().send, "ada@example.org"), bool)
    assert_type(await scope.schedule(partial(count, "text")), int)
    assert_type(scope.schedule(count, "text").result(), int)
    assert_type(await scope.task(name="fetch", shield=True).schedule(fetch, "u"), bytes)
    async with scope.lifecycle("stored", "answered") as unit:
        assert_type(await unit.phase("stored").schedule(count, "text"), int)
        assert_type(await unit.phase("answered").task(when="always").schedule(fetch, "u"), bytes)
    handle: Task[..., int] = scope.schedule(count, "text")
    assert_type(handle.exception(), BaseException | None)


async def refused(scope: TaskScope) -> None:
    """What must not pass."""
    scope.schedule(fetch)  # type: ignore
    scope.schedule(fetch, 1)  # type: ignore
    scope.schedule(fetch, "u", tries=1)  # type: ignore
    scope.schedule(count, text=1)  # type: ignore
    scope.task(name="x").schedule(count)  # type: ignore
    scope.task(timeout="1")  # type: ignore
    scope.task(when="sometimes")  # type: ignore
    TaskScope(limit="1")  # type: ignore


def in_an_endpoint(tasks: Tasks) -> None:
    """The adapter keeps the types."""
    assert_type(tasks.after_response.schedule(count, "text").result(), int)
    assert_type(current_tasks().schedule(count, "text").result(), int)
    tasks.after_route.schedule(count)  # type: ignore


async def handle(task: Task[..., Any], error: Exception) -> None:
    """An error handler."""


config = TaskConfig(name="x", on_error=handle, timeout=1.0)
