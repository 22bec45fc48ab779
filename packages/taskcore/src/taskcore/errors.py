"""Every exception a user of taskcore can meet, all under `TaskcoreError`.

Each one also derives from the built-in that fits, keeps its facts as attributes
and survives pickling.
"""

from __future__ import annotations

import asyncio

__all__ = [
    "BacklogFullError",
    "ConfigError",
    "ConfigTypeError",
    "ConfigValueError",
    "InvalidCallError",
    "NoCurrentScopeError",
    "NoCurrentTaskError",
    "NotIdleError",
    "ScopeClosedError",
    "TaskAbandonedError",
    "TaskCancelledError",
    "TaskNotFinishedError",
    "TaskSkippedError",
    "TaskTimeoutError",
    "TaskcoreError",
    "UnknownPhaseError",
    "UnpicklableError",
    "WorkerDiedError",
    "WrongLoopError",
]


class TaskcoreError(Exception):
    """Base class of every error that taskcore raises."""


class InvalidCallError(TaskcoreError, TypeError):
    """What was given to `schedule` cannot be called with the given arguments."""


class ConfigError(TaskcoreError):
    """An option makes no sense; base of the two errors below."""


class ConfigTypeError(ConfigError, TypeError):
    """An option has a value of the wrong type."""


class ConfigValueError(ConfigError, ValueError):
    """An option has a value out of its range, or one that contradicts another."""


class UnknownPhaseError(TaskcoreError, LookupError):
    """The unit of work has no phase of that name.

    Attributes:
        phase: The name that was asked for.
        known: The names that the unit has, in order.
    """

    def __init__(self, message: str, phase: str, known: tuple[str, ...]) -> None:
        super().__init__(message, phase, known)
        self.phase = phase
        self.known = known

    def __str__(self) -> str:
        return str(self.args[0])


class ScopeClosedError(TaskcoreError, RuntimeError):
    """The scope takes no tasks: it was not entered yet, is draining, or has ended."""


class WrongLoopError(TaskcoreError, RuntimeError):
    """The scope or task belongs to another event loop than the running one."""


class NoCurrentScopeError(TaskcoreError, RuntimeError):
    """`current_scope()` was called where no scope is in reach, or `asgi.current_tasks()`."""


class NoCurrentTaskError(TaskcoreError, RuntimeError):
    """`current_task()` was called outside of a scheduled task."""


class BacklogFullError(TaskcoreError, RuntimeError):
    """As many tasks run and wait as the scope allows; nothing was scheduled.

    Attributes:
        limit: Most tasks that may run at once.
        backlog: Most tasks that may wait.
        running: Tasks that held a slot at the call.
        waiting: Tasks that waited at the call, deferred ones included.
        lane: The lane that is full; `None` for the scope's own.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: int = 0,
        backlog: int = 0,
        running: int = 0,
        waiting: int = 0,
        lane: str | None = None,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.backlog = backlog
        self.running = running
        self.waiting = waiting
        self.lane = lane

    # Pickle calls the class with `args` alone; the figures travel as state.
    def __reduce__(self) -> tuple[type[BacklogFullError], tuple[str], dict[str, object]]:
        return type(self), (str(self.args[0]),), dict(self.__dict__)


class TaskNotFinishedError(TaskcoreError, asyncio.InvalidStateError):
    """The result of a task was asked for before there was one."""


class TaskCancelledError(TaskcoreError, asyncio.CancelledError):
    """The task whose result was asked for had been cancelled.

    It derives from `asyncio.CancelledError`, so code that treats a cancelled
    asyncio task in a certain way treats ours alike.
    """


class TaskAbandonedError(TaskCancelledError):
    """The task was cancelled but did not stop, and nobody waits for it any more."""


class TaskSkippedError(TaskcoreError, RuntimeError):
    """The deferred task did not run, because of how its unit of work ended."""


class TaskTimeoutError(TaskcoreError, TimeoutError):
    """One attempt of a task took longer than its `timeout`.

    Attributes:
        timeout: The length that was allowed, in seconds.
    """

    def __init__(self, message: str, timeout: float = 0.0) -> None:
        super().__init__(message, timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return str(self.args[0])


class NotIdleError(TaskcoreError, TimeoutError):
    """A test waited until a scope is idle, and it was not in time.

    Attributes:
        timeout: The length that was allowed, in seconds.
        tasks: The names of the tasks that had not ended.
    """

    def __init__(self, message: str, timeout: float = 0.0, tasks: tuple[str, ...] = ()) -> None:
        super().__init__(message, timeout, tasks)
        self.timeout = timeout
        self.tasks = tasks

    def __str__(self) -> str:
        return str(self.args[0])


class WorkerDiedError(TaskcoreError, RuntimeError):
    """What ran the function ended without an answer: its worker process, or an executor.

    Or it could not be started. The function may have run in part, or not at all.
    """


class UnpicklableError(TaskcoreError, TypeError):
    """What a function in a worker process returned or raised could not be copied from there.

    The function has run to its end.
    """
