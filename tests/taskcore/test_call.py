"""What can be scheduled, what is refused at the call, and what the refusal says to write."""

# Nobody can annotate a lambda.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import functools
import threading
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

from taskcore import TaskScope
from taskcore.errors import InvalidCallError


async def add(x: int, y: int = 1) -> int:
    return x + y


def add_plainly(x: int, y: int = 1) -> int:
    return x + y


def forwarding(func: Callable[..., Any]) -> Callable[..., Any]:
    """A plain decorator, which hides that the function is async."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


class Adder:
    def add_plainly(self, x: int, y: int = 1) -> int:
        return x + y

    async def add(self, x: int, y: int = 1) -> int:
        return x + y

    @classmethod
    async def add_in_class(cls, x: int, y: int = 1) -> int:
        return x + y

    @staticmethod
    async def add_statically(x: int, y: int = 1) -> int:
        return x + y


class Callable_:
    def __call__(self, x: int, y: int = 1) -> int:
        return x + y


class AsyncCallable:
    async def __call__(self, x: int, y: int = 1) -> int:
        return x + y


class Pair:
    def __init__(self, x: int, y: int = 1) -> None:
        self.sum = x + y

    def __eq__(self, other: object) -> bool:
        return self.sum == other

    __hash__ = None  # type: ignore[assignment]  # equal to a number, and nothing more


CALLABLES: dict[str, tuple[Callable[..., Any], bool]] = {  # and whether it runs on the loop
    "coroutine function": (add, True),
    "plain function": (add_plainly, False),
    "partial of a coroutine function": (functools.partial(add, y=1), True),
    "partial of a partial": (functools.partial(functools.partial(add), y=1), True),
    "partial of a plain function": (functools.partial(add_plainly, y=1), False),
    "method": (Adder().add, True),
    "plain method": (Adder().add_plainly, False),
    "class method": (Adder.add_in_class, True),
    "static method": (Adder.add_statically, True),
    "object with an async call": (AsyncCallable(), True),
    "partial of an object with an async call": (functools.partial(AsyncCallable(), y=1), True),
    "object with a plain call": (Callable_(), False),
    "class": (Pair, False),
    "lambda": (lambda x, y=1: x + y, False),
    "lambda that returns a coroutine": (lambda x, y=1: add(x, y), False),
    "async function behind a plain decorator": (forwarding(add), False),
}


@pytest.mark.parametrize("kind", CALLABLES)
@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}], ids=["bare", "configured"])
async def test_callables(kind: str, options: dict[str, Any]) -> None:
    """Whatever can be called is called, and what it returns is awaited if it is a coroutine."""
    func, _ = CALLABLES[kind]
    async with TaskScope() as scope:
        assert await scope.task(**options).schedule(func, 1) == 2


@pytest.mark.parametrize("kind", CALLABLES)
async def test_where_callables_run(kind: str) -> None:
    """Coroutine functions, however wrapped, are called on the loop, and all others in a thread."""
    func, on_loop = CALLABLES[kind]
    threads: list[int] = []

    class Probe(int):
        def __add__(self, other: int) -> int:
            threads.append(threading.get_ident())
            return 2

    async with TaskScope() as scope:
        await scope.schedule(func, Probe(1))
    # What the coroutine of a lambda does happens on the loop as well.
    on_loop = on_loop or kind in (
        "lambda that returns a coroutine",
        "async function behind a plain decorator",
    )
    assert threads == [threading.get_ident()] or not on_loop
    assert (threads == [threading.get_ident()]) == on_loop


@pytest.mark.parametrize("kind", CALLABLES)
@pytest.mark.parametrize("args", [(), (1, 2, 3)], ids=["too few", "too many"])
async def test_arguments_that_do_not_fit(kind: str, args: tuple[int, ...]) -> None:
    """I7: arguments that do not fit are refused at the call, which shows what would fit."""
    func, _ = CALLABLES[kind]
    async with TaskScope() as scope:
        if "returns a coroutine" in kind or "decorator" in kind or kind == "lambda":
            pattern = r"with arguments that fit .*\("
        else:
            pattern = r"call schedule\([\w.]+, \.\.\.\) with arguments that fit [\w.]+\(.*x"
        if args or "decorator" not in kind:
            with pytest.raises(InvalidCallError, match=pattern):
                scope.schedule(func, *args)
        with pytest.raises(InvalidCallError, match=pattern):
            scope.schedule(func, 1, wrong=2)


async def test_keywords_that_the_function_takes() -> None:
    """Every keyword is the function's own, whatever it is called."""

    async def takes(**kwargs: int) -> dict[str, int]:
        return kwargs

    def takes_plainly(**kwargs: int) -> dict[str, int]:
        return kwargs

    ours = dict.fromkeys(("self", "func", "name", "config", "args", "task", "timeout", "scope"), 1)
    async with TaskScope() as scope:
        assert await scope.schedule(takes, **ours) == ours
        assert await scope.schedule(takes_plainly, **ours) == ours
        assert await scope.task(timeout=60).schedule(takes, **ours) == ours


async def test_coroutine_object() -> None:
    """I7: a coroutine object is refused, and closed, so that no warning follows."""
    async with TaskScope() as scope:
        coroutine: Any = add(1)
        with pytest.raises(InvalidCallError, match=r"write schedule\(add, \.\.\.\) with the"):
            scope.schedule(coroutine)
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await coroutine


async def test_future() -> None:
    """I7: something that runs already is refused, and left alone."""
    async with TaskScope() as scope:
        running: Any = asyncio.ensure_future(add(1))
        with pytest.raises(InvalidCallError, match="schedule the function that made it"):
            scope.schedule(running)
        assert await running == 2


async def test_handle() -> None:
    """I7: the handle of another task is refused."""
    async with TaskScope() as scope:
        handle: Any = scope.schedule(add, 1)
        with pytest.raises(InvalidCallError, match="schedule an async function that awaits it"):
            scope.schedule(handle)


async def test_awaitable() -> None:
    """I7: an awaitable that is no coroutine is refused."""

    class Awaitable:
        def __await__(self) -> Generator[Any, None, None]:
            yield

    async with TaskScope() as scope:
        awaitable: Any = Awaitable()
        with pytest.raises(InvalidCallError, match="schedule an async function that awaits it"):
            scope.schedule(awaitable)


@pytest.mark.parametrize("thing", [None, 3, "add", [add]], ids=repr)
async def test_not_callable(thing: Any) -> None:
    """I7: what cannot be called is refused."""
    async with TaskScope() as scope:
        with pytest.raises(InvalidCallError, match=r"write schedule\(function, argument, \.\.\.\)"):
            scope.schedule(thing)


def generate(x: int) -> Iterator[int]:
    yield x


async def generate_async(x: int) -> AsyncIterator[int]:
    yield x


class Generating:
    def __call__(self, x: int) -> Iterator[int]:
        yield x


class AsyncGenerating:
    async def __call__(self, x: int) -> AsyncIterator[int]:
        yield x


@types.coroutine
def generate_coroutine(x: int) -> Generator[Any, None, int]:
    yield
    return x


@pytest.mark.parametrize(
    "func",
    [
        generate,
        generate_async,
        functools.partial(generate, 1),
        Generating().__call__,
        Generating(),
        AsyncGenerating(),
        generate_coroutine,
    ],
    ids=["plain", "async", "partial", "method", "object", "async object", "generator coroutine"],
)
async def test_generator_function(func: Callable[..., Any]) -> None:
    """I7: a generator function is refused, since nobody would take what it yields."""
    async with TaskScope() as scope:
        args = () if isinstance(func, functools.partial) else (1,)
        with pytest.raises(InvalidCallError, match="schedule a function that loops over it"):
            scope.schedule(func, *args)


async def test_builtins() -> None:
    """A builtin that does not tell its signature is called, and fails where it must."""
    async with TaskScope() as scope:
        assert await scope.schedule(max, 1, 2) == 2
        assert await scope.schedule(dict, x=1) == {"x": 1}
        length: Any = len
        with pytest.raises(InvalidCallError, match="with arguments that fit len"):
            scope.schedule(length, 1, 2)


async def test_signature_that_cannot_be_told() -> None:
    """I7: a function whose signature is nonsense is refused like any other."""

    async def fetch(url: str) -> None:
        pass

    wrong: Any = fetch
    wrong.__signature__ = 7
    async with TaskScope() as scope:
        with pytest.raises(InvalidCallError, match=r"with arguments that fit [\w.<>]+\(\.\.\.\)"):
            scope.schedule(wrong)


async def test_refused_call_leaves_nothing() -> None:
    """I7: a call that was refused takes no slot and no place, and the scope goes on."""
    misfit: Any = add
    async with TaskScope(limit=1, backlog=0) as scope, scope.lifecycle("end") as unit:
        for _ in range(3):
            with pytest.raises(InvalidCallError):
                scope.schedule(misfit)
            with pytest.raises(InvalidCallError):
                unit.phase("end").schedule(misfit)
            with pytest.raises(InvalidCallError):
                scope.task(delay=60).schedule(misfit)
        assert await scope.schedule(add, 1) == 2


async def test_names() -> None:
    """A task is named after its function, through partials and objects."""
    async with TaskScope() as scope:
        named: list[tuple[Callable[..., Coroutine[Any, Any, int]], str]] = [
            (add, "add"),
            (functools.partial(functools.partial(add), y=2), "add"),
            (Adder().add, "Adder.add"),
            (AsyncCallable(), "AsyncCallable"),
        ]
        for func, name in named:
            assert scope.schedule(func, 1).name == name


async def test_option_among_the_arguments() -> None:
    """I7: who gives an option of the task to `schedule` is told where it goes."""

    async def send(address: str) -> None:
        raise AssertionError

    def store(row: int) -> None:
        raise AssertionError

    async with TaskScope() as scope:
        for function in (send, store):
            fix = rf"write task\(timeout=...\).schedule\(.*{function.__name__}, ...\)"
            with pytest.raises(InvalidCallError, match=fix):
                scope.schedule(function, "ada", timeout=5)  # type: ignore
