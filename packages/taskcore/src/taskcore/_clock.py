"""A virtual clock: an event loop on which waiting takes no time.

Invariant: time moves only when nothing else can happen, that is when no callback
is ready, no I/O has arrived and no thread is at work.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, NoReturn, TypeVar, TypeVarTuple

__all__ = ["VirtualClockLoop", "run_virtual"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Seconds of real time between two looks at `busy`. A thread that wakes the loop is
# noticed at once; this bounds only how late the end of a silent one is seen.
_POLL_INTERVAL = 0.01
# Jumps after which a timer is taken to repeat for ever: some seconds of real time.
_MOST_JUMPS = 1_000_000


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time jumps to the next timer instead of waiting.

    Time starts at zero seconds and stands still while code runs or threads are at
    work, so a test of timeouts, delays and grace periods is exact and takes no time.

    Pitfalls:
        A thread that will not finish by itself holds the clock for ever, also
        against the timeout around it::

            async with asyncio.timeout(5):                # WRONG: never times out
                await asyncio.to_thread(released.wait)

            loop.busy = lambda: False                     # right: nobody waits for threads
            async with asyncio.timeout(5):
                await asyncio.to_thread(released.wait)

        Do not use this loop to talk to other processes or hosts: the clock would
        outrun them. Sockets whose both ends are on this loop are safe.

    Args:
        busy: Says whether something outside the loop, such as a thread pool of your
            own, is still going to wake it; time stands still meanwhile. A thread must
            wake the loop before it stops being counted. `None` counts what
            `run_in_executor` and `asyncio.to_thread` have running, what threads do for
            the scopes of this loop, and what was given to `hold_while`.

    Attributes:
        busy: The callable in use. Assign another one at any time.

    Raises:
        RuntimeError: From whatever runs the loop, when the tasks wait for something that
            can no longer happen, or when the clock has jumped a million times. Complete
            what they wait for, or give a `busy` that knows of it.

    Example:
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            runner.run(asyncio.sleep(3600))

    Source:
        The same idea as the autojump clock of trio (`trio.testing.MockClock`).
    """

    def __init__(self, busy: Callable[[], bool] | None = None) -> None:
        self._now = 0.0
        self._jumps = 0
        self._jobs: set[asyncio.Future[Any]] = set()
        self._holds: list[Callable[[], bool]] = []
        self.busy: Callable[[], bool] = busy or self._is_busy
        # The lambda finds the `busy` of the moment, which may be assigned anew.
        super().__init__(_VirtualSelector(lambda: self.busy(), self._jump))
        # Seconds by which a timer may fire early. The nanosecond of the real clock is lost
        # in the rounding after some months, and then a timer that is due never fires. There
        # is no public way to set it (CPython 3.11 to 3.14 read this attribute).
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was created."""
        return self._now

    def hold_while(self, busy: Callable[[], bool]) -> None:
        """Let time stand still while `busy()` is true, too.

        Scopes give their threads here; do the same for threads of your own.

        Args:
            busy: As for the loop itself; asked until the loop ends.
        """
        self._holds.append(busy)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a function in an executor, and hold the clock until its future is done.

        Args:
            executor: Where to run it; `None` is the loop's default executor.
            func: The function.
            *args: Its positional arguments.

        Returns:
            The future of its result.
        """
        job = super().run_in_executor(executor, func, *args)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Join the threads of the default executor, and hold the clock meanwhile.

        Args:
            *args: As for any event loop: from Python 3.12 on, a timeout in seconds.
            **kwargs: The same, by name.

        Cancellation:
            Safe: the threads go on ending, and are joined when the interpreter exits.
        """
        # Without the hold, the limit that asyncio puts on the join (300 s) would pass at once.
        busy, self.busy = self.busy, lambda: True
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self.busy = busy

    def _is_busy(self) -> bool:
        return bool(self._jobs) or any(busy() for busy in self._holds)

    def _jump(self, seconds: float | None) -> None:
        """Move the clock to the next timer, or give up if there is none (`None`)."""
        self._jumps += 1
        if seconds is None:
            self._give_up("no timer, callback, input or thread is left to wake a pending task")
        elif self._jumps > _MOST_JUMPS:
            self._jumps = 0  # so that the tasks can still be cancelled
            self._give_up(f"it jumped {_MOST_JUMPS} times, so a timer repeats for ever")
        else:
            self._now += seconds

    def _give_up(self, reason: str) -> NoReturn:
        tasks = sorted(repr(task) for task in asyncio.all_tasks(self))
        raise RuntimeError(
            f"the virtual clock stopped at {self._now} s: {reason}; complete what the tasks "
            "wait for, or give a 'busy' that knows of it. Pending:\n  " + "\n  ".join(tasks)
        )


class _VirtualSelector(selectors.DefaultSelector):
    """Polls instead of waiting, and makes the clock jump over the wait."""

    def __init__(self, busy: Callable[[], bool], jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._busy = busy
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Ask before polling: a thread that has just stopped being busy has woken the
        # loop before, and the poll sees that. The other way round it would be missed.
        if timeout != 0 and self._busy():
            return super().select(_POLL_INTERVAL)
        events = super().select(0)
        if timeout != 0 and not events:
            self._jump(timeout)
        return events


def run_virtual(
    main: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T],
    *,
    busy: Callable[[], bool] | None = None,
) -> T:
    """Run a coroutine on a `VirtualClockLoop` of its own, as `asyncio.run` would.

    Args:
        main: An async function without parameters, or a coroutine.
        busy: Passed to `VirtualClockLoop`.

    Returns:
        What the coroutine returns.

    Raises:
        RuntimeError: The coroutine waits for something that can no longer happen, or
            an event loop is running in this thread already.

    Example:
        def test_patience() -> None:
            run_virtual(asyncio.sleep(3600))
    """
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(busy)) as runner:
        return runner.run(main() if callable(main) else main)
