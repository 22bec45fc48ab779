"""What is logged about tasks: names and ids, never arguments, each thing once.

A log that cannot be written must not keep a task or a drain from its end, so what a
broken handler or filter raises goes to stderr.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Collection
from typing import Any

from taskcore._call import name_of
from taskcore._task import AnyTask

_logger = logging.getLogger("taskcore")


def say(level: int, message: str, *args: object, **options: Any) -> None:
    """Log, as `logging` does; what the log itself raises is printed."""
    try:
        _logger.log(level, message, *args, **options)
    except Exception:
        traceback.print_exc()


def facts(task: AnyTask) -> dict[str, object]:
    """What every record about a task carries in `extra`."""
    return {
        "task_name": task.name,
        "task_id": task.id,
        "task_function": name_of(task.func),
        "phase": task.phase,
        "scope": task._scope.name,
    }


def say_failed(task: AnyTask, error: BaseException) -> None:
    """Log the failure of a task that has no error handler."""
    message = "task '%s' (id %d, function %s) failed"
    names = (task.name, task.id, name_of(task.func))
    say(logging.ERROR, message, *names, exc_info=error, extra=facts(task))


def say_unasked(task: AnyTask, error: asyncio.CancelledError) -> None:
    """Log that a task ended as cancelled, and nobody had cancelled it."""
    message = (
        "task '%s' (id %d, function %s) raised CancelledError, though nobody cancelled it; "
        "it counts as cancelled"
    )
    names = (task.name, task.id, name_of(task.func))
    say(logging.WARNING, message, *names, exc_info=error, extra=facts(task))


def say_handler_failed(
    task: AnyTask, handler: Callable[..., Any], error: BaseException, second: BaseException
) -> None:
    """Log the failure of an error handler, with both tracebacks."""
    if second is not error:
        _root_context(second, error)
    message = "error handler '%s' of task '%s' (id %d, function %s) failed"
    names = (name_of(handler), task.name, task.id, name_of(task.func))
    say(logging.ERROR, message, *names, exc_info=second, extra=facts(task))


def _root_context(second: BaseException, error: BaseException) -> None:
    """Let the traceback of `second` begin with that of `error`, unless it has it already."""
    seen: set[int] = set()
    at = second
    while id(at) not in seen:
        seen.add(id(at))
        following = at.__cause__ or at.__context__
        if following is error:
            return
        if following is None:
            # Not an assignment, which frozen dataclasses refuse.
            BaseException.__setattr__(at, "__context__", error)
            BaseException.__setattr__(at, "__suppress_context__", False)
            return
        at = following


def say_abandoned(task: AnyTask, stack: str) -> None:
    """Say what was abandoned, how old it is, and where it hangs."""
    age = task._took() or 0.0
    message = (
        "abandoned task '%s' (id %d, function %s) after %.2f s: it was cancelled and did not "
        "stop; it hangs at\n%s"
    )
    names = (task.name, task.id, name_of(task.func))
    hangs = stack.rstrip() or "  (no Python code)"
    say(logging.ERROR, message, *names, age, hangs, extra=facts(task) | {"age": age})


def coroutine_stack(runner: asyncio.Task[Any], without: Collection[str]) -> str:
    """Where a coroutine stands, down to its innermost await, as a traceback would show it.

    Args:
        runner: The asyncio task.
        without: Files whose frames are left out: those of our own coroutines.
    """
    summaries: list[traceback.FrameSummary] = []
    at: Any = runner.get_coro()
    while at is not None:
        # Coroutines, generators and async generators name these two differently.
        frame = _first(at, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            summaries += traceback.StackSummary.extract([(frame, frame.f_lineno)])
        at = _first(at, "cr_await", "gi_yieldfrom", "ag_await")
    return "".join(traceback.format_list(s for s in summaries if s.filename not in without))


def _first(owner: object, *names: str) -> Any:
    return next((found for name in names if (found := getattr(owner, name, None))), None)
