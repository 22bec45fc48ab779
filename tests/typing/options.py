"""Read by type checkers, never run: the options of a task, and who may be what in them.

See `schedule.py` for what a bare `type: ignore` stands for.
"""

import asyncio
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, assert_type

import aiolimiter
import anyio
import stamina
import tenacity

from taskcore import Task, TaskConfig, TaskErrorHandler, TaskScope
from taskcore.spi import ConfiguredScope
from tests.typing.schedule import count, fetch


async def options(scope: TaskScope) -> None:
    """Options stand between the scope and `schedule`, which loses no type by them."""
    assert_type(await scope.task(name="fetch", shield=True).schedule(fetch, "u"), bytes)
    assert_type(await scope.task(timeout=1.0).task(delay=2).schedule(count, "text"), int)
    kept = scope.task(run_in="thread", lane="mail")
    assert_type(kept, ConfiguredScope)
    assert_type(kept.schedule(count, "text").result(), int)
    assert_type(kept.config.lane, str | None)
    scope.task(name=None, shield=None, on_error=None, timeout=None, retry=None, limiter=None)
    scope.task(when=None, run_in=None, lane=None, delay=None)


async def wrong_options(scope: TaskScope) -> None:
    """A name that is no option, or a value that is none of its own, is refused."""
    scope.task(nmae="fetch")  # type: ignore
    scope.task("fetch")  # type: ignore
    scope.task(name=7)  # type: ignore
    scope.task(shield=1)  # type: ignore
    scope.task(timeout="1")  # type: ignore
    scope.task(delay="soon")  # type: ignore
    scope.task(retry=3)  # type: ignore
    scope.task(limiter=5)  # type: ignore
    scope.task(limiter=threading.Lock())  # type: ignore
    scope.task(when="sometimes")  # type: ignore
    scope.task(run_in="fork")  # type: ignore
    scope.task(lane=7)  # type: ignore
    scope.task(name="fetch").schedule(fetch)  # type: ignore
    scope.task(name="fetch").schedule(fetch, 1)  # type: ignore
    scope.task(name="fetch").schedule(fetch, "u", shield=True)  # type: ignore
    scope.schedule(fetch, "u", shield=True)  # type: ignore
    scope.task().task(timeout=1.0).schedule(count, "text", 1)  # type: ignore


def config(executor: ThreadPoolExecutor | ProcessPoolExecutor) -> None:
    """A config takes the same options, and gives them back typed."""
    one = TaskConfig(name="fetch", shield=True, timeout=1, when="always", run_in=executor)
    assert_type(one.name, str | None)
    assert_type(one.timeout, float | None)
    assert_type(one.on_error, TaskErrorHandler | None)
    assert_type(one.shielded, bool)
    assert_type(one.merge(TaskConfig(lane="mail")), TaskConfig)
    assert_type(one.refine(lane="mail"), TaskConfig)
    TaskConfig(nmae="fetch")  # type: ignore
    TaskConfig("fetch")  # type: ignore
    TaskConfig(timeout="1")  # type: ignore
    TaskConfig(shield="yes")  # type: ignore
    one.merge({"lane": "mail"})  # type: ignore
    one.refine(lain="mail")  # type: ignore
    one.timeout = 2.0  # type: ignore


async def refund(task: Task[..., Any], error: Exception) -> None:
    """An async handler."""


def report(task: Task[..., Any], error: BaseException) -> bool:
    """A plain handler; what it returns is dropped."""
    return bool(task.name and error)


async def of_a_kind(task: Task[[str], bytes], error: ValueError, retries: int = 0) -> None:
    """A handler for tasks of one function and one error, with an option of its own."""


class Alert:
    """A handler that is an object, and one that is a method."""

    async def __call__(self, task: Task[..., Any], error: Exception) -> None: ...

    async def send(self, task: Task[..., Any], error: Exception) -> None:
        """The method."""


def handlers(scope: TaskScope) -> None:
    """A handler takes the task and its exception, sync or async."""
    handler: TaskErrorHandler = refund
    TaskConfig(on_error=handler)
    scope.task(on_error=report).schedule(fetch, "u")
    scope.task(on_error=of_a_kind).schedule(fetch, "u")
    scope.task(on_error=Alert())
    scope.task(on_error=Alert().send)
    scope.task(on_error=lambda task, error: print(task.name, error))


def no_task(name: str, error: Exception) -> None:
    """A handler that wants something else than the task."""


def too_few(task: Task[..., Any]) -> None:
    """A handler that takes one argument."""


def too_many(task: Task[..., Any], error: Exception, more: int) -> None:
    """A handler that takes three arguments."""


def wrong_handlers(scope: TaskScope) -> None:
    """Anything else is refused where it is given."""
    scope.task(on_error="log")  # type: ignore
    scope.task(on_error=no_task)  # type: ignore
    scope.task(on_error=too_few)  # type: ignore
    TaskConfig(on_error=too_many)  # type: ignore
    TaskConfig(on_error=lambda task: None)  # type: ignore
    TaskConfig(on_error=Alert)  # type: ignore


def real_libraries(scope: TaskScope) -> None:
    """What the contract names fits as it is: L2."""
    scope.task(retry=tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(3)))
    scope.task(retry=stamina.AsyncRetryingCaller(attempts=3).on(ConnectionError))
    scope.task(limiter=asyncio.Semaphore(5))
    scope.task(limiter=aiolimiter.AsyncLimiter(10, 1))
    scope.task(limiter=anyio.CapacityLimiter(5))
