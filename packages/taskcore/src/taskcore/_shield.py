"""Keep a task from cancellation that comes from outside, and end that protection.

Who may cancel a shielded task: its own code (`asyncio.timeout`, a task group inside
it), its handle's `cancel()`, and the drain at the shield's deadline. Who may not: the
clean-up with which `asyncio.run` and servers end a loop. That clean-up cancels every
task that `asyncio.all_tasks()` lists, so a shielded task is not listed. What waits for
it is listed: the frame inside `async with TaskScope()`, which no cancellation ends
before the drain has.

Refusing `cancel()` on the asyncio task instead would break `asyncio.timeout` and
`TaskGroup` in the shielded code, which cancel the very same object.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any


def hide(runner: asyncio.Task[Any]) -> None:
    """Take an asyncio task off `asyncio.all_tasks()`."""
    # Documented for those who extend asyncio, underscore and all:
    # https://docs.python.org/3/library/asyncio-extending.html#task-lifetime-support
    asyncio._unregister_task(runner)  # pyright: ignore[reportPrivateUsage]


def list_children(runner: asyncio.Task[Any]) -> None:
    """Put back on the list what a shielded task has left behind, unless it is shielded itself."""
    for child in getattr(runner, "children", ()):
        is_shielded = getattr(child, "is_shielded", bool)  # that of a `Runner`
        if not child.done() and not is_shielded():
            asyncio._register_task(child)  # pyright: ignore[reportPrivateUsage]


def abandon(runner: asyncio.Task[Any]) -> None:
    """Let nothing wait for an asyncio task that ignores its cancellation, nor warn of it.

    The clean-up of the loop would wait for it for ever, and for the asyncio tasks that it
    has started itself. Nor is any of them ever destroyed: a coroutine that swallows
    everything would be resumed by that, and hold the interpreter.
    """
    for child in getattr(runner, "children", ()):
        abandon(child)
    hide(runner)
    runner._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    if not _kept:
        # What the interpreter does not clear when it ends: the frame of a thread that waits.
        threading.Thread(target=_keep, args=(_kept,), name="taskcore-kept", daemon=True).start()
    _kept[runner] = None
    runner.add_done_callback(lambda runner: _kept.pop(runner, None))


_kept: dict[asyncio.Task[Any], None] = {}


def _keep(kept: dict[asyncio.Task[Any], None]) -> None:
    threading.Event().wait()
