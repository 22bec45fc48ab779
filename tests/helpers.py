"""What tests of several files share."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Journal:
    """An append-only log of events, in the order in which they happened, from any thread.

    Example:
        journal.add("started")
        assert journal.events == ["started"]
    """

    def __init__(self) -> None:
        self._events: list[object] = []

    def __repr__(self) -> str:
        return f"Journal({self._events})"

    @property
    def events(self) -> list[object]:
        """A copy of the log."""
        return self._events.copy()

    def add(self, event: object) -> None:
        """Append an event: a string, or a tuple of facts such as a name and a time."""
        self._events.append(event)

    def assert_order(self, *events: object) -> None:
        """Assert that each of `events` happened exactly once, and in this order."""
        assert [event for event in self._events if event in events] == list(events), self


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """How one run of a procedure ended.

    Attributes:
        cancelled_at: The awaits at which it was cancelled: number, and calls with lines.
        cancelled: Whether it ended as cancelled. False if it swallowed the cancellation.
        result: What it returned; `None` if it was cancelled.
    """

    cancelled_at: tuple[str, ...]
    cancelled: bool
    result: T | None


async def cancel_at_every_await(
    procedure: Callable[[], Coroutine[Any, Any, T]],
    *,
    times: int = 1,
    late: bool = False,
    check: Callable[[Outcome[T]], Awaitable[None] | None] | None = None,
) -> list[Outcome[T]]:
    """Run a procedure to its end, then again and again, cancelled at its 1st, 2nd, ... await.

    An await counts when it suspends the procedure. No run may leave a task pending, or
    raise anything but `CancelledError`; an error notes where its run was cancelled.

    Args:
        procedure: An async function that sets up its own state, as each run calls it.
        times: How often to cancel one run at most. Two tries every pair of awaits, so
            that the second cancellation meets the clean-up after the first.
        late: Cancel when what the procedure awaits is done already, just before it
            resumes, instead of when it begins to wait.
        check: A function, sync or async, that gets the outcome of each run.

    Returns:
        The outcome of each run; the first is that of the run that was not cancelled.

    Example:
        await cancel_at_every_await(procedure, times=2, check=no_slot_is_lost)
    """
    outcomes: list[Outcome[T]] = []
    plans: deque[tuple[int, ...]] = deque([()])
    while plans:
        plan = plans.popleft()
        before = asyncio.all_tasks()
        run = _Run(procedure(), plan, late=late)
        try:
            outcomes.append(outcome := await run.outcome())
            if check is not None and inspect.isawaitable(checking := check(outcome)):
                await checking
            assert asyncio.all_tasks() - before == set()
        except Exception as error:
            error.add_note(f"in the run that was cancelled at: {run.cancelled_at or 'no await'}")
            raise
        if len(plan) < times:
            first = max(plan, default=0) + 1
            plans.extend((*plan, later) for later in range(first, run.awaits + 1))
    return outcomes


class _Run(Generic[T]):
    """One run of a procedure in a task of its own, cancelled at the awaits of its plan."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], plan: tuple[int, ...], *, late: bool
    ) -> None:
        self._coroutine = coroutine
        self._plan = plan
        self._late = late
        self.awaits = 0
        self.cancelled_at: list[str] = []

    async def outcome(self) -> Outcome[T]:
        task = asyncio.create_task(self._main())
        await asyncio.wait([task])
        result = None if task.cancelled() else task.result()
        return Outcome(tuple(self.cancelled_at), task.cancelled(), result)

    async def _main(self) -> T:
        return await self

    def __await__(self) -> Generator[Any, Any, T]:
        """Pass everything between the coroutine and its task, and cancel the task on the way."""
        resume: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            try:
                awaited = resume()
            except StopIteration as end:
                return cast("T", end.value)
            self.awaits += 1
            if self.awaits in self._plan:
                self._cancel(awaited)
            try:
                resume = partial(self._coroutine.send, (yield awaited))
            except BaseException as error:  # CancelledError above all
                resume = partial(self._coroutine.throw, error)

    def _cancel(self, awaited: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.cancelled_at.append(f"await {self.awaits}, {_place(self._coroutine)}")
        if self._late and asyncio.isfuture(awaited):
            # Called before the task is woken, since the task adds its callback later.
            awaited.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()


def _place(coroutine: object) -> str:
    """Name the calls that a suspended coroutine is in, outermost first."""
    calls: list[str] = []
    while inspect.iscoroutine(coroutine) and coroutine.cr_frame is not None:
        calls.append(f"{coroutine.__name__}:{coroutine.cr_frame.f_lineno}")
        coroutine = coroutine.cr_await
    return " > ".join(calls)
