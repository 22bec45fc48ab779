"""What a scope has, counted: tasks by state, use of its lanes, threads and processes.

Only the ends of tasks are counted as they happen, one addition each. All else is counted
in the books when a snapshot is taken, so a scope that nobody asks pays nothing.

Invariant: on the scope's loop every task that was accepted is counted once, in one state.
"""

from __future__ import annotations

from taskcore._frozen import frozen
from taskcore._intake import Intake
from taskcore._lane import Lane
from taskcore._state import ScopeState, TaskState


@frozen(slots=True)
class LaneStatistics:
    """The use of one limit, in tasks.

    Attributes:
        name: The lane's name; `None` for the scope's own `limit`.
        limit: Most tasks that run at once.
        backlog: Most tasks that wait; `None` is no limit.
        running: Tasks that hold a slot.
        waiting: Tasks that wait for a slot.
        deferred: Tasks that wait for their phase or delay, and count against the backlog.
    """

    name: str | None
    limit: int
    backlog: int | None
    running: int
    waiting: int
    deferred: int


@frozen(slots=True)
class PoolStatistics:
    """The use of a scope's threads, or of its worker processes.

    Attributes:
        size: Most workers at once.
        busy: Workers that run a function; those that were abandoned are left out.
        idle: Workers that wait for the next one.
        queued: Functions that wait for a worker.
    """

    size: int
    busy: int
    idle: int
    queued: int


@frozen(slots=True)
class ScopeStatistics:
    """What a scope has at one moment, and how many of its tasks have ended so far.

    Attributes:
        name: The scope's name.
        state: Whether it is open, draining, or closed.
        deferred: Tasks that wait for their phase or delay, now.
        waiting: Tasks that wait for a slot, now.
        scheduled: Tasks that have their slot and have not begun, now, and those that a
            thread has scheduled a moment ago.
        running: Tasks whose function has begun, now.
        succeeded: Tasks whose function returned, since the scope opened.
        failed: Tasks whose function raised, since the scope opened.
        cancelled: Tasks that were cancelled, since the scope opened.
        skipped: Deferred tasks that `when` kept from running, since the scope opened.
        abandoned: Tasks that did not stop when cancelled, since the scope opened.
        lanes: The scope's own limit first, if it has one, then its lanes.
        threads: Use of the threads for plain functions.
        processes: Use of the worker processes.
    """

    name: str
    state: ScopeState
    deferred: int
    waiting: int
    scheduled: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    skipped: int
    abandoned: int
    lanes: tuple[LaneStatistics, ...]
    threads: PoolStatistics
    processes: PoolStatistics


def take_statistics(scope: Intake) -> ScopeStatistics:
    """Count what `scope` has; in any thread."""
    # One call each copies a book, while no other thread can change it.
    states = [task._state for book in (scope._tasks, scope._deferred) for task in list(book)]
    ended = scope._ended_otherwise
    lanes = [scope._lane, *scope._lanes.values()]
    return ScopeStatistics(
        name=scope.name,
        state=scope._state,
        deferred=states.count(TaskState.DEFERRED),
        waiting=states.count(TaskState.WAITING),
        scheduled=states.count(TaskState.SCHEDULED) + len(scope._on_the_way),
        running=states.count(TaskState.RUNNING),
        succeeded=scope._succeeded,
        failed=ended[TaskState.FAILED],
        cancelled=ended[TaskState.CANCELLED],
        skipped=ended[TaskState.SKIPPED],
        abandoned=ended[TaskState.ABANDONED],
        lanes=tuple(_of_lane(lane) for lane in lanes if lane is not None),
        threads=_of_pool(scope, "thread"),
        processes=_of_pool(scope, "process"),
    )


def _of_lane(lane: Lane) -> LaneStatistics:
    return LaneStatistics(
        name=lane.name,
        limit=lane.limit,
        backlog=lane.backlog,
        running=lane.taken,
        waiting=lane.waiting,
        deferred=lane.reserved,
    )


def _of_pool(scope: Intake, kind: str) -> PoolStatistics:
    size = scope._pool_sizes[kind]
    pool = scope._pools.get(kind)
    if pool is None:
        return PoolStatistics(size, busy=0, idle=0, queued=0)
    return PoolStatistics(size, busy=pool.busy, idle=pool._idle, queued=pool.queued)
