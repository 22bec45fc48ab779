"""Frozen settings of a task: their units, defaults, and what each value may be.

Invariant: a `TaskConfig` that exists is valid. Whatever can be checked without
the function (ranges, types, the shape of a handler) is checked here, at the call
that names the option.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import FunctionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    TypeAlias,
    TypedDict,
    Unpack,
    cast,
)

from taskcore._frozen import frozen
from taskcore.errors import ConfigTypeError, ConfigValueError

if TYPE_CHECKING:
    from taskcore._task import Task
else:  # of the same shape, so that what follows is no string and can be used in annotations
    Task = Callable

TaskErrorHandler: TypeAlias = Callable[[Task[..., Any], Any], Any]
"""What `on_error` takes: called with the task and its exception, sync or async."""

When: TypeAlias = Literal["success", "failure", "always"]
"""After which end of its unit of work a deferred task runs."""
RunIn: TypeAlias = Literal["loop", "thread", "process"] | Executor
"""Where a function runs."""
Retry: TypeAlias = Callable[..., Awaitable[Any]]
"""An async callable `retry(func, *args, **kwargs)` that calls `func` as often as it sees fit."""
Limiter: TypeAlias = AbstractAsyncContextManager[Any, Any]
"""An async context manager that is entered around each attempt."""

LONGEST = threading.TIMEOUT_MAX  # what a clock of the system can count: some 292 years
_WHEN = {"success": (True, False), "failure": (False, True), "always": (True, True)}
"""Whether a task runs after a success, and after a failure, of its unit of work."""
_DERIVED = {"_direct": True, "_shielded": False, "_runs_after": _WHEN["success"]}
"""What no option at all comes to."""
_RUN_IN = ("loop", "thread", "process")


class TaskOptions(TypedDict, total=False):
    """The options of `TaskConfig` and of `task(...)`, for the type checker."""

    name: str | None
    shield: bool | None
    on_error: TaskErrorHandler | None
    timeout: float | None
    retry: Retry | None
    limiter: Limiter | None
    when: When | None
    run_in: RunIn | None
    lane: str | None
    delay: float | None


@frozen(slots=False)
class TaskConfig:
    """How a task runs. Every option is `None` by default, which means "not set".

    An option that is set nearer to the task wins: `.task(...)` over the config of
    the scope or app.

    Attributes:
        name: What logs and reports call the task. Default: the function's qualified name.
        shield: Keep the task from cancellation that comes from outside it, until the
            drain's `shield_timeout`. `False` takes back a shield that a default sets.
        on_error: Called with the task and its exception when its last attempt failed,
            under the same shield. A plain function is called in a thread.
        timeout: Seconds that one attempt may take, greater than or equal to 0. The wait
            for a `limiter` does not count.
        retry: An async callable `retry(func, *args, **kwargs)` that calls `func` as often
            as it sees fit, such as `tenacity.AsyncRetrying()`.
        limiter: An async context manager entered around each attempt, such as
            `asyncio.Semaphore(5)`.
        when: Whether a deferred task runs if its unit of work succeeded so far
            (`"success"`, as if not set), failed (`"failure"`), or in both cases (`"always"`).
        run_in: `"loop"`, `"thread"`, `"process"`, or a `concurrent.futures.Executor`.
            Default: coroutine functions on the loop, plain functions in a thread.
            For a process pickle must be able to copy the function, its arguments and its
            result; context variables stay behind. An executor is yours to shut down.
        lane: The lane of the scope whose limit counts, instead of the scope's own.
        delay: Seconds between schedule (or the phase) and start, greater than or equal to 0.
            In a series: between `every` and its first run.
    """

    name: str | None = None
    shield: bool | None = None
    on_error: TaskErrorHandler | None = None
    timeout: float | None = None
    retry: Retry | None = None
    limiter: Limiter | None = None
    when: When | None = None
    run_in: RunIn | None = None
    lane: str | None = None
    delay: float | None = None

    def __init__(self, **options: Unpack[TaskOptions]) -> None:
        """Check and keep what is given.

        Raises:
            ConfigTypeError: An option has the wrong type, or there is no such option.
            ConfigValueError: An option is out of its range.
        """
        self.__dict__.update(_DERIVED)
        self._set(options)

    # What the options come to, for each task to look at: an attribute of the instance is
    # found at half of the cost of a default of the class, and less on Python 3.11.
    _direct: ClassVar[bool]  # it needs nothing but to await its function: see `_run.begin`
    _shielded: ClassVar[bool]
    _runs_after: ClassVar[tuple[bool, bool]]  # a success, a failure of its unit of work

    def _set(self, options: TaskOptions) -> None:
        # What is not given stays a class attribute: a config with one or two options, the
        # usual kind, is made and merged in a fraction of the time that ten slots take.
        values = self.__dict__
        for option, value in options.items():
            if value is not None:
                try:
                    check = _CHECKS[option]
                except KeyError:
                    raise ConfigTypeError(
                        f"unknown option {option!r}: a task has {', '.join(_CHECKS)}"
                    ) from None
                check(option, value)
                values[option] = value
                if option in _HARMLESS:
                    continue
                if option == "shield":
                    values["_shielded"] = value
                elif option == "when":
                    values["_runs_after"] = _WHEN[cast("When", value)]
                else:
                    values["_direct"] = False

    @property
    def shielded(self) -> bool:
        """Whether the task is kept from cancellation that comes from outside it."""
        return self._shielded

    def merge(self, other: TaskConfig) -> TaskConfig:
        """Return a new config in which what `other` sets wins.

        Args:
            other: The config that is nearer to the task.

        Returns:
            A config that sets what either of the two sets.

        Raises:
            ConfigTypeError: `other` is no `TaskConfig`.
        """
        if not isinstance(other, TaskConfig):
            raise ConfigTypeError(f"cannot merge {other!r}; pass a TaskConfig")
        given = {option: other.__dict__[option] for option in OPTIONS if option in other.__dict__}
        return self._refine(cast("TaskOptions", given))

    def refine(self, **options: Unpack[TaskOptions]) -> TaskConfig:
        """Return a new config in which `options` win: `merge` without a config in between.

        Raises:
            ConfigTypeError: An option has the wrong type, or there is no such option.
            ConfigValueError: An option is out of its range.
        """
        return self._refine(options)

    def _refine(self, options: TaskOptions) -> TaskConfig:
        merged = object.__new__(TaskConfig)
        merged.__dict__.update(self.__dict__)
        merged._set(options)
        return merged


def check_seconds(
    option: str, value: float | None, *, none: str = "leave it out for no limit"
) -> None:
    """Refuse what is no finite length of time greater than or equal to 0; `None` passes."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigTypeError(f"{option}={value!r} is not a number; pass seconds, or {none}")
    if not 0 <= value <= LONGEST:
        raise ConfigValueError(
            f"{option}={value!r} is no length of time; pass seconds >= 0, or {none}"
        )


def check_count(option: str, value: int | None, *, least: int, none: str = "") -> None:
    """Refuse what is no whole number of at least `least`; `None` passes if it is said what for."""
    if value is None and none:
        return
    or_none = f", or None for {none}" if none else ""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigTypeError(f"{option}={value!r} is not a whole number; pass an int{or_none}")
    if value < least:
        raise ConfigValueError(f"{option}={value!r} is too small; pass at least {least}{or_none}")


def check_lanes(lanes: Mapping[str, int] | None) -> None:
    """Refuse what does not map names to limits; `None` passes."""
    if lanes is None:
        return
    if not isinstance(lanes, Mapping):
        raise ConfigTypeError(
            f"lanes={lanes!r} is no mapping; pass names and limits, such as {{'mail': 5}}"
        )
    for lane, limit in lanes.items():
        _check_name("lane", lane)
        check_count(f"lanes[{lane!r}]", limit, least=1)


def _check_name(option: str, value: str) -> None:
    if not isinstance(value, str):
        raise ConfigTypeError(f"{option}={value!r} is not a string; pass a str")
    if not value:
        raise ConfigValueError(f"{option}='' is empty; pass a name, or leave it out")


def _check_shield(option: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise ConfigTypeError(f"shield={value!r} is not a bool; pass True or False")


def _check_retry(option: str, value: Retry) -> None:
    if not callable(value):
        raise ConfigTypeError(
            f"retry={value!r} cannot be called; pass an async callable "
            "retry(func, *args, **kwargs), such as tenacity.AsyncRetrying()"
        )
    kind = type(value)
    # A function may return the coroutine of another; of an object we can tell.
    if kind.__module__ not in ("builtins", "functools") and not inspect.iscoroutinefunction(
        kind.__call__
    ):
        raise ConfigTypeError(
            f"retry={value!r} is not async, so it would never retry; pass an async callable "
            "retry(func, *args, **kwargs), such as tenacity.AsyncRetrying()"
        )


def _check_limiter(option: str, value: Limiter) -> None:
    kind = type(value)
    if not hasattr(kind, "__aenter__") or not hasattr(kind, "__aexit__"):
        raise ConfigTypeError(
            f"limiter={value!r} is no async context manager; pass an object with "
            "__aenter__ and __aexit__, such as asyncio.Semaphore(5)"
        )


def _check_when(option: str, value: When) -> None:
    if value not in tuple(_WHEN):  # it may be anything, so not `in` the mapping
        raise ConfigValueError(f"when={value!r} is unknown; pass one of {tuple(_WHEN)}")


def _check_run_in(option: str, value: RunIn) -> None:
    if value not in _RUN_IN and not isinstance(value, Executor):
        raise ConfigValueError(
            f"run_in={value!r} is unknown; pass one of {_RUN_IN} or a concurrent.futures.Executor"
        )


def _check_handler(option: str, handler: TaskErrorHandler) -> None:
    if type(handler) is FunctionType:
        code = handler.__code__
        if code.co_argcount == 2 and not code.co_kwonlyargcount:
            return  # the usual case, at a hundredth of the cost of a signature
    if not callable(handler):
        raise ConfigTypeError(
            f"on_error={handler!r} cannot be called; pass a function (task, exception) -> Any"
        )
    try:
        inspect.signature(handler, follow_wrapped=False).bind(None, None)
    except TypeError:
        raise ConfigTypeError(
            f"on_error={handler!r} does not take two arguments; "
            "write it as a function (task, exception) -> Any"
        ) from None
    except ValueError:  # a builtin that does not tell its signature
        pass


OPTIONS = tuple(TaskOptions.__annotations__)
"""The names of the options."""

_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "name": _check_name,
    "shield": _check_shield,
    "on_error": _check_handler,
    "timeout": check_seconds,
    "retry": _check_retry,
    "limiter": _check_limiter,
    "when": _check_when,
    "run_in": _check_run_in,
    "lane": _check_name,
    "delay": partial(check_seconds, none="leave it out to start at once"),
}
# With these, too, a task needs nothing but to await its function.
_HARMLESS = frozenset({"name", "on_error"})
