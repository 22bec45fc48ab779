"""Tell what a callable is, and refuse at once what could not be called later.

Nothing here runs user code: a coroutine function is only bound to its arguments
(which makes, and closes, a coroutine object that never ran), and a plain function
is held against its signature.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from taskcore._config import OPTIONS
from taskcore.errors import InvalidCallError

CO_COROUTINE = inspect.CO_COROUTINE
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def name_of(func: Callable[..., Any]) -> str:
    """The name that a person would use for `func`: its qualified name where it has one."""
    while isinstance(func, partial):
        func = func.func
    name = getattr(func, "__qualname__", None)
    return name if isinstance(name, str) else type(func).__qualname__


def is_plain_coroutine_function(func: Callable[..., Any]) -> bool:
    """Whether `func` is an `async def`, or a method that is one: its call runs nothing."""
    if type(func) is FunctionType:
        return func.__code__.co_flags & CO_COROUTINE != 0
    return isinstance(func, MethodType) and is_plain_coroutine_function(func.__func__)


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Whether a call of `func` gives a coroutine: also through partials, methods, objects."""
    while isinstance(func, partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or (
        not isinstance(func, FunctionType | MethodType | type)
        and inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004 (its kind)
    )


def check_call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Refuse what cannot be called with these arguments.

    Args:
        func: What the user gave to `schedule`.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        Whether `func` is a coroutine function.

    Raises:
        InvalidCallError: `func` is no function that a task can run, or the arguments do
            not fit it. A coroutine object is closed first, so no warning follows.
    """
    if is_plain_coroutine_function(func):
        try:
            func(*args, **kwargs).close()
        except TypeError as error:
            raise misfit(func, error) from None
        return True
    if not callable(func):
        raise _not_callable(func)
    if _code_flags(func) & _GENERATORS:
        raise InvalidCallError(
            f"cannot schedule '{name_of(func)}': it is a generator function, and nobody would "
            "take what it yields; schedule a function that loops over it"
        )
    _check_signature(func, args, kwargs)
    return is_coroutine_function(func)


def _code_flags(func: Callable[..., Any]) -> int:
    while isinstance(func, partial):
        func = func.func
    if not isinstance(func, FunctionType | MethodType | type):
        func = getattr(func, "__call__", func)  # noqa: B004 (what it is, not whether)
    code = getattr(func, "__code__", None)
    return code.co_flags if code is not None else 0


def _check_signature(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(func)
    except (ValueError, TypeError):  # a builtin that does not tell its signature
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise misfit(func, error) from None


def misfit(func: Callable[..., Any], error: TypeError) -> InvalidCallError:
    """The error for arguments that do not fit `func`, made of the one that Python raised."""
    name = name_of(func)
    try:
        shape = str(inspect.signature(func))
    except (ValueError, TypeError):
        shape = "(...)"
    keyword = str(error).partition("unexpected keyword argument '")[2].partition("'")[0]
    if keyword in OPTIONS:
        fix = f"{keyword} is an option of the task: write task({keyword}=...).schedule({name}, ...)"
    else:
        fix = f"call schedule({name}, ...) with arguments that fit {name}{shape}"
    return InvalidCallError(f"cannot schedule '{name}': {error}; {fix}")


def _not_callable(func: Any) -> InvalidCallError:
    if inspect.iscoroutine(func):
        name = func.__qualname__
        func.close()
        return InvalidCallError(
            f"cannot schedule the coroutine object '{name}(...)': a task needs the function, "
            f"so that it can start (and retry) it; write schedule({name}, ...) with the "
            "arguments after it"
        )
    kind: str = type(func).__name__
    if isinstance(func, asyncio.Future):
        return InvalidCallError(
            f"cannot schedule this {kind}: it runs already; "
            "await it, or schedule the function that made it"
        )
    if isinstance(func, Awaitable):
        return InvalidCallError(
            f"cannot schedule this awaitable {kind}: schedule an async function that awaits it"
        )
    return InvalidCallError(
        f"cannot schedule this {kind}: it cannot be called; write schedule(function, argument, ...)"
    )
