"""The scope's own threads, for plain functions.

`concurrent.futures` joins its threads when the interpreter ends, so one function
stuck in `time.sleep(3600)` would hold the process. These threads are daemons, are
never joined, and one that is stuck when its caller gives up is replaced.

A call moves `queued -> running -> finished`, or `queued -> withdrawn`, or
`running -> abandoned`. Every move is made under the pool's lock, so a call that was
withdrawn never begins, and a worker is counted until it ends or is abandoned.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from enum import Enum
from typing import Any

_names = itertools.count(1)
_here = threading.local()


def current_call() -> ThreadCall | None:
    """The call that runs in this thread; `None` in a thread that is no worker."""
    return getattr(_here, "call", None)


class CallState(Enum):
    """Where a call stands; see the module."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    WITHDRAWN = "withdrawn"
    ABANDONED = "abandoned"


class ThreadCall:
    """One call of a function in a worker thread, as its caller sees it."""

    __slots__ = ("answer", "begun", "cancelled", "context", "func", "owner", "state", "thread_id")

    def __init__(
        self,
        func: Callable[[], Any],
        context: Context,
        answer: asyncio.Future[Any],
        begun: Callable[[], None] | None,
        owner: object,
    ) -> None:
        self.func = func
        self.context = context
        self.answer = answer
        self.begun = begun
        self.owner = owner
        self.state = CallState.QUEUED
        self.cancelled = False  # set by the caller, read by `check_cancelled` in the thread
        self.thread_id = 0

    def run(self) -> None:
        """Call the function in this thread, and deliver what came of it on the loop."""
        value: Any = None
        error: BaseException | None = None
        _here.call = self
        self.thread_id = threading.get_ident()
        try:
            if self.begun is not None:
                self.begun()
            value = self.context.run(self.func)
        except BaseException as exc:
            error = exc
        _here.call = None
        # A closed loop raises: then nobody is there to take the answer.
        with contextlib.suppress(RuntimeError):
            self.answer.get_loop().call_soon_threadsafe(deliver, self.answer, value, error)
        # A failed call would be kept alive by the frame that its traceback holds.
        del self, value, error

    def stack(self) -> str:
        """Where the thread stands now, as a traceback would show it."""
        frame = sys._current_frames().get(self.thread_id)
        if frame is None:
            return ""
        frames = traceback.extract_stack(frame)
        ours = [at for at, entry in enumerate(frames) if entry.filename == __file__]
        # An executor's thread may have left the function by now: then it hangs nowhere.
        return "".join(traceback.format_list(frames[max(ours, default=len(frames)) + 1 :]))


class ThreadPool:
    """At most `size` daemon threads, started when needed, ended by `close`.

    Args:
        size: Most threads at once; abandoned ones are not counted.
        loop: The loop on which answers arrive.
        name: Prefix of the threads' names.
        at_end: Called in each thread when it ends.
    """

    def __init__(
        self,
        size: int,
        loop: asyncio.AbstractEventLoop,
        name: str,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self.size = size
        self._loop = loop
        self._name = name
        self._at_end = at_end
        self._calls: OrderedDict[ThreadCall, None] = OrderedDict()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._closed = False
        hold = getattr(loop, "hold_while", None)
        if hold is not None:  # a `VirtualClockLoop`
            hold(lambda: self.is_busy)

    @property
    def is_busy(self) -> bool:
        """Whether a call is queued or runs, abandoned ones left out.

        The loop has been woken with the answer before this turns false.
        """
        return bool(self._calls) or self.busy > 0

    @property
    def busy(self) -> int:
        """Workers that are not idle, abandoned ones left out."""
        return self._threads - self._idle

    @property
    def queued(self) -> int:
        """Calls that wait for a worker."""
        return len(self._calls)

    def submit(
        self,
        func: Callable[[], Any],
        context: Context,
        begun: Callable[[], None] | None = None,
        owner: object = None,
    ) -> ThreadCall:
        """Give `func` to a worker; what becomes of it arrives in `answer` on the loop.

        Args:
            func: What to run, without arguments.
            context: The context variables that it sees.
            begun: Called in the worker thread just before `func`.
            owner: For whom it runs; `current_call().owner` tells the function.
        """
        call = ThreadCall(func, context, self._loop.create_future(), begun, owner)
        with self._changed:
            self._calls[call] = None
            self._provide()
        return call

    def withdraw(self, call: ThreadCall) -> bool:
        """Keep a call that has not begun from ever beginning; false if it has begun."""
        with self._changed:
            if call.state is CallState.QUEUED:
                call.state = CallState.WITHDRAWN
                del self._calls[call]
        return call.state is CallState.WITHDRAWN

    def abandon(self, call: ThreadCall) -> None:
        """Stop counting the worker that is stuck in `call`: another may take its place."""
        with self._changed:
            if call.state is CallState.RUNNING:
                call.state = CallState.ABANDONED
                self._threads -= 1
                if self._calls:
                    self._provide()

    def close(self) -> None:
        """Let the workers end once nothing is queued. Does not wait for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _provide(self) -> None:
        if len(self._calls) > self._idle and self._threads < self.size:
            self._threads += 1
            name = f"{self._name}-thread-{next(_names)}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        else:
            self._changed.notify()

    def _work(self) -> None:
        while (call := self._take()) is not None:
            call.run()
            with self._changed:
                if call.state is CallState.ABANDONED:
                    break
                call.state = CallState.FINISHED
            del call  # an idle worker must not keep the last function's arguments alive
        if self._at_end is not None:
            self._at_end()

    def _take(self) -> ThreadCall | None:
        with self._changed:
            while True:
                if self._calls:
                    call, _ = self._calls.popitem(last=False)
                    call.state = CallState.RUNNING
                    return call
                if self._closed:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1


def deliver(answer: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    """Complete the future of a call, on the loop."""
    if answer.done():
        return
    # A future refuses StopIteration, so what a thread raised is handed over as a value.
    answer.set_result((value, error))
