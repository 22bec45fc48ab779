"""Read by type checkers, never run: what `schedule` accepts, and what its handle gives back.

A bare `type: ignore` stands where both mypy and pyright must refuse the line. Each of them
complains of one that it does not need, so a line that passes is an error as well.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar, assert_type, overload

from taskcore import Task, TaskScope, TaskState

P = ParamSpec("P")
T = TypeVar("T")


async def fetch(url: str, *, retries: int = 3) -> bytes:
    """A coroutine function, with a default."""
    return url.encode() * retries


def count(text: str, separator: str = " ") -> int:
    """A plain function, with a default."""
    return len(text.split(separator))


async def nothing() -> None:
    """A coroutine function without parameters or result."""


def total(*numbers: int, start: float = 0.0) -> float:
    """A plain function that takes any number of arguments."""
    return sum(numbers, start=start)


@overload
def parse(text: str) -> int: ...
@overload
def parse(text: bytes) -> float: ...
def parse(text: str | bytes) -> int | float:
    """An overloaded plain function."""
    return len(text)


@overload
async def load(key: str) -> int: ...
@overload
async def load(key: bytes) -> float: ...
async def load(key: str | bytes) -> int | float:
    """An overloaded coroutine function."""
    return len(key)


def first(items: list[T]) -> T:
    """A generic plain function."""
    return items[0]


async def last(items: list[T]) -> T:
    """A generic coroutine function."""
    return items[-1]


def traced(func: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A decorator that keeps the parameters."""
    return func


@traced
async def decorated(number: int) -> str:
    """A decorated coroutine function."""
    return str(number)


def promised(number: int) -> asyncio.Future[int]:
    """A plain function that returns an awaitable, which is its result and is not awaited."""
    raise NotImplementedError(number)


class Mail:
    """A class, with every kind of method."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def send(self, subject: str) -> bool:
        """A coroutine method."""
        return bool(subject)

    def render(self, width: int = 80) -> str:
        """A plain method."""
        return self.address[:width]

    @classmethod
    async def read(cls, number: int) -> Self:
        """A class method."""
        return cls(str(number))

    @staticmethod
    def check(address: str) -> bool:
        """A static method."""
        return "@" in address


class Resize:
    """A callable object."""

    def __call__(self, width: int) -> bytes:
        return bytes(width)


class Upload:
    """A callable object whose call is a coroutine."""

    async def __call__(self, data: bytes) -> str:
        return data.decode()


async def functions(scope: TaskScope) -> None:
    """An `async def` that returns T and a `def` that does are both `Task[..., T]`."""
    assert_type(await scope.schedule(fetch, "https://example.org", retries=1), bytes)
    assert_type(await scope.schedule(fetch, url="https://example.org"), bytes)
    assert_type(await scope.schedule(count, "some text"), int)
    assert_type(await scope.schedule(count, "some,text", separator=","), int)
    assert_type(await scope.schedule(total, 1, 2, 3, start=0.5), float)
    assert_type(await scope.schedule(nothing), None)
    one: Task[..., bytes] = scope.schedule(fetch, "https://example.org")
    two: Task[..., int] = scope.schedule(count, "some text")
    assert_type(await one, bytes)
    assert_type(await two, int)


async def other_callables(scope: TaskScope, unknown: Callable[..., Any]) -> None:
    """Methods, classes, objects, partials, overloads, generics and builtins keep their types."""
    assert_type(await scope.schedule(Mail("ada@example.org").send, "hello"), bool)
    assert_type(await scope.schedule(Mail("ada@example.org").render), str)
    assert_type(await scope.schedule(Mail.read, 7), Mail)
    assert_type(await scope.schedule(Mail.check, "ada@example.org"), bool)
    assert_type(await scope.schedule(Mail, "ada@example.org"), Mail)
    assert_type(await scope.schedule(Resize(), 80), bytes)
    assert_type(await scope.schedule(Upload(), b"data"), str)
    assert_type(await scope.schedule(partial(fetch, "https://example.org"), retries=1), bytes)
    assert_type(await scope.schedule(partial(count, separator=","), "some,text"), int)
    assert_type(await scope.schedule(parse, "7"), int)
    assert_type(await scope.schedule(parse, b"7"), float)
    assert_type(await scope.schedule(load, "key"), int)
    assert_type(await scope.schedule(load, b"key"), float)
    assert_type(await scope.schedule(first, [1]), int)
    assert_type(await scope.schedule(last, ["a"]), str)
    assert_type(await scope.schedule(decorated, 7), str)
    assert_type(await scope.schedule(promised, 7), asyncio.Future[int])
    assert_type(await scope.schedule(asyncio.sleep, 1.0), None)
    assert_type(await scope.schedule(asyncio.sleep, 1.0, "slept"), str)
    assert_type(await scope.schedule(len, "text"), int)
    assert_type(await scope.schedule(lambda: 7), int)
    assert_type(await scope.schedule(unknown, "anything", goes=True), Any)


async def wrong_arguments(scope: TaskScope) -> None:
    """Arguments are held against the function's own parameters, whatever kind it is of."""
    scope.schedule(fetch)  # type: ignore
    scope.schedule(fetch, 1)  # type: ignore
    scope.schedule(fetch, "https://example.org", 3)  # type: ignore
    scope.schedule(fetch, "https://example.org", tries=1)  # type: ignore
    scope.schedule(fetch, "https://example.org", retries="1")  # type: ignore
    scope.schedule(fetch, "https://example.org", url="twice")  # type: ignore
    scope.schedule(count)  # type: ignore
    scope.schedule(count, text=1)  # type: ignore
    scope.schedule(count, "some text", ",", "more")  # type: ignore
    scope.schedule(total, 1, "2")  # type: ignore
    scope.schedule(nothing, 1)  # type: ignore
    scope.schedule(Mail("ada@example.org").send)  # type: ignore
    scope.schedule(Mail("ada@example.org").render, width="80")  # type: ignore
    scope.schedule(Mail.read, "7")  # type: ignore
    scope.schedule(Mail.send, "hello")  # type: ignore
    scope.schedule(Mail)  # type: ignore
    scope.schedule(Resize(), "80")  # type: ignore
    scope.schedule(Upload(), data="data")  # type: ignore
    scope.schedule(parse, 7)  # type: ignore
    scope.schedule(load, 7)  # type: ignore
    scope.schedule(first, 7)  # type: ignore
    scope.schedule(decorated, "7")  # type: ignore
    scope.schedule(asyncio.sleep, "1")  # type: ignore
    partial(count, 7)  # type: ignore
    # What a partial still takes is known to pyright alone.
    scope.schedule(partial(count, "some text"), separator=7)  # pyright: ignore
    scope.schedule(partial(count, "some text"), words=True)  # pyright: ignore


async def no_function(scope: TaskScope, awaitable: Awaitable[int]) -> None:
    """What is no function is refused, a coroutine object before all."""
    scope.schedule()  # type: ignore
    scope.schedule(fetch("https://example.org"))  # type: ignore
    scope.schedule(awaitable)  # type: ignore
    scope.schedule("fetch", "https://example.org")  # type: ignore
    scope.schedule(func=nothing)  # type: ignore


async def handle(scope: TaskScope) -> None:
    """The handle is typed throughout, and is a handle of what its result can stand for."""
    task = scope.schedule(count, "some text")
    assert_type(task.result(), int)
    assert_type(task.exception(), BaseException | None)
    assert_type(task.state, TaskState)
    assert_type(task.name, str)
    assert_type(task.id, int)
    assert_type(task.args, tuple[Any, ...])
    assert_type(task.kwargs, dict[str, Any])
    assert_type(task.done(), bool)
    assert_type(task.cancelled(), bool)
    assert_type(task.cancel(), bool)
    assert_type(task.started.is_set(), bool)
    assert_type(await task.started.wait(), bool)
    assert_type(await task.wait(), None)
    wider: Task[..., float] = task
    widest: Task[..., object] = wider
    several: list[Task[..., object]] = [widest, scope.schedule(nothing)]
    assert_type(await asyncio.gather(task, task), tuple[int, int])
    several.append(task)


async def wrong_handle(scope: TaskScope) -> None:
    """What a handle does not give is refused."""
    task = scope.schedule(count, "some text")
    text: str = await task  # type: ignore
    other: Task[..., str] = task  # type: ignore
    task.state = TaskState.SUCCEEDED  # type: ignore
    task.name = text  # type: ignore
    task.result(timeout=1.0)  # type: ignore
    task.set_result(other)  # type: ignore
    await task.started  # type: ignore
