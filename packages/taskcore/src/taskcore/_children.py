"""The asyncio tasks that a task starts itself: with `gather`, `TaskGroup`, `create_task`.

asyncio knows no parents. While a scope is open, the task factory of its loop notes the
root of each new asyncio task: the runner of ours in whose code, or in whose child's code,
it was made. A child shares what its root has:

    shield       The child of a shielded task is not listed by `asyncio.all_tasks()`, until
                 it ends or its root has; then it is listed again, as any other.
    abandonment  The child of an abandoned task is abandoned with it.
    identity     `current_task()` and `check_cancelled()` work in it.

In all else it is asyncio's: nobody waits for a child that outlives its root.

What runs in a scope that a task opens shares shield and abandonment with it as well, or the
end of the loop would cancel, or wait for, what the task waits for: see `Books._host`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

from taskcore._run import current_root, root_var


class ChildNotes:
    """Notes the roots on one loop, from `enter` until as many `leave`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._before: Any = loop.get_task_factory()
        self._factory = _noting(self._before)
        self._scopes = 0

    def enter(self) -> None:
        """One more scope is open."""
        if not self._scopes:
            self._loop.set_task_factory(self._factory)
        self._scopes += 1

    def leave(self) -> None:
        """One scope less; after the last one the loop has its own task factory back."""
        self._scopes -= 1
        if not self._scopes:
            del _notes[self._loop]
            # If it is not ours, someone has put another one over it, which may call it still.
            if self._loop.get_task_factory() is self._factory:
                self._loop.set_task_factory(self._before)


_notes: WeakKeyDictionary[asyncio.AbstractEventLoop, ChildNotes] = WeakKeyDictionary()


def note_children(loop: asyncio.AbstractEventLoop) -> ChildNotes:
    """Let the loop note roots, until `leave` is called on what is returned."""
    notes = _notes.get(loop)
    if notes is None:
        notes = _notes[loop] = ChildNotes(loop)
    notes.enter()
    return notes


def _noting(before: Any) -> Any:
    """A task factory that does what `before` does, and notes roots."""
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    if eager and getattr(before, "__code__", 0) is eager.__code__:  # pragma: no cover (from 3.12)
        # anyio tells an eager factory by its code, and calls the constructor in it by itself.
        (constructor,) = (cell.cell_contents for cell in before.__closure__)
        return cast("Any", asyncio).create_eager_task_factory(partial(_make, constructor))

    def make_before(coro: Any, *, loop: Any, **options: Any) -> Any:
        return before(loop, coro, **options)

    constructor = asyncio.Task if before is None else make_before

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        return _make(constructor, coro, loop=loop, **options)

    return factory


def _make(constructor: Any, coro: Any, *, loop: Any, **options: Any) -> Any:
    """Make an asyncio task, and note whose child it is."""
    root = current_root(loop)
    if root is None:
        return constructor(coro, loop=loop, **options)
    # The child copies its context when it is made, so the root is there from its first step,
    # which an eager one takes in here. By reference, as a child may live longer.
    token = root_var.set(ref(root))
    try:
        child = constructor(coro, loop=loop, **options)
    finally:
        root_var.reset(token)
    if not child.done():
        root.adopt(child)
    return child
