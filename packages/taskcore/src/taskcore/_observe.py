"""Tell whoever wants to know what happens to tasks. Without observers it costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from taskcore._log import facts, say
from taskcore._task import AnyTask

EventKind: TypeAlias = Literal["scheduled", "started", "finished", "skipped", "abandoned"]
"""What can happen to a task: see `TaskEvent`."""


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One thing that happened to one task.

    Attributes:
        kind: `"scheduled"` (accepted), `"started"` (its function begins), `"finished"`
            (succeeded, failed or cancelled: see `task.state`), `"skipped"`, `"abandoned"`.
        task: The task, in the state that the event brought it to.
        time: When, on the clock of the scope's loop, in seconds.
    """

    kind: EventKind
    task: AnyTask
    time: float


Observer: TypeAlias = Callable[[TaskEvent], object]
"""Called on the scope's loop for each event. It must not wait; what it raises is logged."""


def tell(observers: tuple[Observer, ...], event: TaskEvent) -> None:
    """Give `event` to each observer; one that raises is logged and harms nothing."""
    for observer in observers:
        try:
            observer(event)
        except BaseException:
            message = "observer %r failed on '%s' of task '%s' (id %d)"
            names = (observer, event.kind, event.task.name, event.task.id)
            say(logging.ERROR, message, *names, exc_info=True, extra=facts(event.task))
