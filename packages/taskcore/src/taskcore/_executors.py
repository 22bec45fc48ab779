"""An executor of the user's in the place of a `ThreadPool`: calls go and end the same way.

In a `ThreadPoolExecutor` the function finds all that it finds in our own threads. Of
any other executor is only known that it calls a function somewhere.

Invariant: what the function raises arrives as it is, and a failure of the executor itself
(it was shut down, or its workers died) as `WorkerDiedError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import BrokenExecutor, Executor, Future
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from taskcore._threads import ThreadCall, deliver
from taskcore.errors import WorkerDiedError

if TYPE_CHECKING:
    from taskcore._task import AnyTask


class UserExecutor:
    """One call in an executor of the user's.

    Args:
        executor: The user's.
        loop: The loop on which the answer arrives.
    """

    def __init__(self, executor: Executor, loop: asyncio.AbstractEventLoop) -> None:
        self._executor = executor
        self._keeper = _Keeper(executor)
        self._loop = loop
        self._calls: list[ThreadCall] = []  # the one that has not begun, in a thread

    def submit(
        self, func: Callable[[], Any], context: Context, begun: Callable[[], None], owner: AnyTask
    ) -> ThreadCall:
        """Give `func` to the executor; what becomes of it arrives in `answer` on the loop.

        Raises:
            WorkerDiedError: The executor takes no calls.
        """
        call = ThreadCall(func, context, self._loop.create_future(), begun, owner)
        # By its module, which loads it when it is first looked up (promise C4).
        in_thread = isinstance(self._executor, futures.ThreadPoolExecutor)
        self._calls.append(call)
        work = partial(_run_once, self._calls) if in_thread else partial(_result, func)
        try:
            answer = self._loop.run_in_executor(self._keeper, work)
        except Exception as error:
            raise self._failed(owner, error) from error
        answer.add_done_callback(partial(self._deliver, call))
        if not in_thread:
            begun()
        return call

    def withdraw(self, call: ThreadCall) -> bool:
        """Keep a call that has not begun from ever beginning; false if it has begun."""
        withdrawn = self._keeper.job.cancel()
        if withdrawn:
            self._calls.clear()  # which the queue of the executor still holds
        return withdrawn

    def abandon(self, call: ThreadCall) -> None:
        """Wait for it no more; the executor goes on."""

    def _deliver(self, call: ThreadCall, answer: asyncio.Future[Any]) -> None:
        error: BaseException | None
        if answer.cancelled():
            error = self._failed(call.owner, RuntimeError("it was shut down before that began"))
        else:
            error = answer.exception()
            if isinstance(error, BrokenExecutor):
                error = self._failed(call.owner, error)
        # A call in a thread has delivered before, and its future has no result.
        deliver(call.answer, None if error else answer.result(), error)

    def _failed(self, task: Any, cause: Exception) -> WorkerDiedError:
        error = WorkerDiedError(
            f"task '{task.name}' was not run to its end by run_in={self._executor!r}: {cause}; "
            "give it an executor that works, and shut that down after the scope"
        )
        error.__cause__ = cause
        return error


class _Keeper(Executor):
    """Keeps the job that asyncio makes a future of its own for: that cannot tell if it runs."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.job: Future[Any]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.job = self._executor.submit(fn, *args, **kwargs)
        return self.job


def _run_once(calls: list[ThreadCall]) -> None:
    # Taken out: what the executor keeps is held by the traceback of an error, and would hold it.
    calls.pop().run()


def _result(func: Callable[[], Any]) -> Any:
    try:
        return func()
    except StopIteration as error:  # no future takes it
        raise RuntimeError("the function raised StopIteration") from error
