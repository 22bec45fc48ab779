"""Slots and the queue for them: at most `limit` tasks hold one, at most `backlog` wait.

Invariants, whatever is scheduled, cancelled or finished in between:
    - a slot is free only while nobody waits for it;
    - waiting tasks get slots first in, first out;
    - a task that was accepted is never refused later: a deferred task holds a
      reservation from `reserve` until its moment comes or it is cancelled.

A thread may reserve; all else is for the loop. What makes the figures greater is done
under a lock wherever a thread could be refused by them; what makes them smaller is not,
as a thread that sees the greater figure is refused a moment too long at the most.
"""

from __future__ import annotations

import threading
from asyncio import Future, get_running_loop
from collections import deque

from taskcore._state import TaskState
from taskcore._task import AnyTask
from taskcore.errors import BacklogFullError

# Up to this many places a cancelled task's place is cleared at once; in a longer queue
# when an eighth is empty, so that cancelling n waiting tasks stays linear in n.
_SHORT = 32
_WAITING = TaskState.WAITING


class Lane:
    """One limit and its queue.

    Args:
        name: The lane's name; `None` for the scope's own.
        limit: Most tasks that hold a slot at once.
        backlog: Most tasks that wait; `None` is no limit.
        scope_name: For messages.
    """

    def __init__(self, name: str | None, limit: int, backlog: int | None, scope_name: str) -> None:
        self.name = name
        self.limit = limit
        self.backlog = backlog
        self.taken: int = 0
        self.reserved: int = 0
        self._scope_name = scope_name
        self._queue: deque[AnyTask] = deque()
        self._left = 0  # places in the queue whose task was cancelled
        self._lock = threading.Lock()
        self._room_waiters: deque[Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Tasks in the queue."""
        return len(self._queue) - self._left

    def take(self) -> bool:
        """Take a slot if one is free, and `limit` and `backlog` are not used up."""
        if self.taken >= self.limit:
            return False
        if self.backlog is None:
            self.taken += 1
            return True
        with self._lock:
            if self.is_full():
                return False
            self.taken += 1
            return True

    def join(self, task: AnyTask) -> None:
        """Let a new task wait, as `reserve` and `admit` would at once, when no slot is free.

        Raises:
            BacklogFullError: There is no place for it.
        """
        if self.backlog is None:
            self._queue.append(task)
            return
        with self._lock:
            if self.is_full():
                raise self._full(task.name)
            self._queue.append(task)

    def reserve(self, task: AnyTask) -> None:
        """Hold a place for a task, which `admit` will take when its moment comes.

        Raises:
            BacklogFullError: There would be neither a slot nor a place for it.
        """
        with self._lock:
            if self.is_full():
                raise self._full(task.name)
            self.reserved += 1

    def admit(self, task: AnyTask) -> bool:
        """The moment of a task that holds a reservation has come; it is never refused.

        Returns:
            Whether it has a slot. If not, it waits, and `release` returns it one day.
        """
        with self._lock:
            self.reserved -= 1
            if self.taken < self.limit and not self.waiting:
                self.taken += 1
                return True
            self._queue.append(task)
            return False

    def cancel_reservation(self) -> None:
        """A deferred task ended without its moment."""
        with self._lock:
            self.reserved -= 1
        self.wake_room_waiter()

    def withdraw(self) -> None:
        """A waiting task was cancelled: the place where it stands no longer counts."""
        with self._lock:
            self._left += 1
            if len(self._queue) <= _SHORT or self._left * 8 > len(self._queue):
                self._queue = deque(t for t in self._queue if t._state is _WAITING)
                self._left = 0
        self.wake_room_waiter()

    def release(self) -> AnyTask | None:
        """Give a slot back.

        Returns:
            The task that waited longest, which has the slot now; `None` if none waits.
        """
        heir = None
        if self._queue and (heir := self.first()) is not None:
            self._queue.popleft()
        else:
            self.taken -= 1
        if self._room_waiters:
            self.wake_room_waiter()
        return heir

    def first(self) -> AnyTask | None:
        """The task that waited longest, which stays where it is; `None` if none waits."""
        queue = self._queue
        while queue:
            first = queue[0]
            if first._state is _WAITING:
                return first
            self._left -= 1  # first, or a thread would see one waiting task too few
            queue.popleft()
        return None

    # Room: only the head of the line is woken, and it stays there until it has resumed and
    # found room, or was cancelled; on its way out it wakes the next.

    def is_full(self) -> bool:
        """Whether a task would be refused now."""
        if self.backlog is None:
            return False
        # `waiting` stands here in full: a property is no cheap call on Python 3.11.
        waiting = len(self._queue) - self._left
        return self.taken + waiting + self.reserved >= self.limit + self.backlog

    async def wait_for_room(self) -> None:
        """Wait until a task would be accepted; it is if it comes before the next await."""
        loop = get_running_loop()
        if not self.is_full() and not self._room_waiters:
            return
        waiter: Future[None] = loop.create_future()
        self._room_waiters.append(waiter)
        try:
            await waiter
            while self.is_full():
                waiter = self._room_waiters[0] = loop.create_future()
                await waiter
        finally:
            self._room_waiters.remove(waiter)
            loop.call_soon(self.wake_room_waiter)

    def wake_room_waiter(self) -> None:
        """Wake the first who waits for room, if there is some."""
        if self._room_waiters and not self.is_full() and not self._room_waiters[0].done():
            self._room_waiters[0].set_result(None)

    def _full(self, name: str) -> BacklogFullError:
        waiting = self.waiting + self.reserved
        lane = f" lane '{self.name}' of" if self.name else ""
        assert self.backlog is not None
        return BacklogFullError(
            f"cannot schedule '{name}':{lane} scope '{self._scope_name}' is full "
            f"({self.taken} running of limit={self.limit}, {waiting} waiting of "
            f"backlog={self.backlog}); answer 503, raise the limits, or "
            "'await scope.wait_for_room()' before you schedule",
            limit=self.limit,
            backlog=self.backlog,
            running=self.taken,
            waiting=waiting,
            lane=self.name,
        )
