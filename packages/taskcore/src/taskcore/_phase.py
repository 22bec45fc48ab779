"""A unit of work and its phases: the named moments at which deferred tasks start.

A phase is ahead or reached. `advance` reaches a phase and every one before it, in
order; nothing makes a phase un-reached. What was deferred starts in the order it was
scheduled. A unit fails at most once, and stays failed.

Invariant: a task given to a phase is started, skipped or cancelled, never lost. Units
are for the scope's loop alone: a task that a thread gives arrives there first.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from taskcore._config import TaskConfig
from taskcore._scheduler import Configured, configured
from taskcore._state import TaskState
from taskcore._task import AnyTask, Task
from taskcore.errors import UnknownPhaseError

if TYPE_CHECKING:
    from taskcore._scope import TaskScope

_DEFERRED = TaskState.DEFERRED

current_unit_var: ContextVar[Lifecycle | None] = ContextVar("taskcore_unit", default=None)


class Lifecycle(Configured):
    """One unit of work: a request, a message, a job. Made by `scope.lifecycle(...)`.

    Used as `async with scope.lifecycle("stored", "answered") as unit:`. The end of the
    block reaches the phases that are left; if it raised, the unit has failed before that.
    The block does not wait for tasks: the scope does.

    Attributes:
        phases: The names of its phases, in order.
        owner: The task that made it, if it was made inside one.
        origin: What an adapter made it for, such as the ASGI scope of a request.
        driver: The asyncio task in which an adapter brings its phases, if there is one: who
            awaits a deferred task in there would wait for ever, and is refused.
    """

    __slots__ = (
        "_deferred",
        "_failed",
        "_reached",
        "_tokens",
        "driver",
        "origin",
        "owner",
        "phases",
    )

    def __init__(
        self, scope: TaskScope, phases: tuple[str, ...], config: TaskConfig, owner: AnyTask | None
    ) -> None:
        """Made by the scope; users call `scope.lifecycle`."""
        self._intake = scope
        self._unit = None
        self._index = 0
        self.config: TaskConfig = config
        self.phases: tuple[str, ...] = phases
        self.owner: Task[..., Any] | None = owner
        self._reached = 0  # how many phases are
        self._failed = False
        self._deferred: dict[int, dict[AnyTask, None]] | None = None  # by phase, once there is one
        self._tokens: tuple[Token[Any], ...] = ()
        self.origin: Any = None
        self.driver: asyncio.Task[Any] | None = None

    @property
    def scope(self) -> TaskScope:
        """The scope that owns the tasks."""
        return cast("TaskScope", self._intake)

    @property
    def failed(self) -> bool:
        """Whether the unit has failed so far."""
        return self._failed

    def phase(self, name: str) -> Phase:
        """The phase of that name, to schedule on.

        Args:
            name: One of the names that the unit was made with.

        Raises:
            UnknownPhaseError: The unit has no such phase.
        """
        return configured(Phase, self._intake, self.config, self, self._find(name))

    def is_reached(self, name: str) -> bool:
        """Whether the phase of that name has been reached.

        Args:
            name: One of the names that the unit was made with.

        Raises:
            UnknownPhaseError: The unit has no such phase.
        """
        return self._find(name) < self._reached

    def advance(self, name: str) -> bool:
        """Reach a phase, and every one before it. Does nothing if it is reached already.

        May be called from any thread; from another than the loop's it takes effect at the
        loop's next turn.

        Args:
            name: One of the names that the unit was made with.

        Returns:
            Whether that started any deferred task.

        Raises:
            UnknownPhaseError: The unit has no such phase.
        """
        upto = self._find(name) + 1
        if not self._intake._is_here():
            self._intake._loop.call_soon_threadsafe(self._reach, upto)
            return False
        return self._reach(upto)

    def fail(self) -> None:
        """Note that the unit has failed: from now on `when="success"` tasks are skipped."""
        self._failed = True

    def refine(self, config: TaskConfig) -> None:
        """Let what `config` sets win in what is scheduled from now on.

        Args:
            config: The config that is nearer to the tasks.
        """
        self.config = self.config.merge(config)

    def close(self) -> None:
        """Reach every phase that is left."""
        self._reach(len(self.phases))

    async def __aenter__(self) -> Lifecycle:
        """Make it the current unit, and its scope the current scope."""
        self._tokens = (self.scope._make_current(), current_unit_var.set(self))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Reach every phase that is left; the unit has failed if the block raised."""
        for token in self._tokens:
            # It may be left in another context than entered, as fixtures and generators do.
            with contextlib.suppress(ValueError):
                token.var.reset(token)
        self._tokens = ()
        if error is not None:
            self.fail()
        self.close()

    def _find(self, name: str) -> int:
        try:
            return self.phases.index(name)
        except ValueError:
            known = ", ".join(f"'{phase}'" for phase in self.phases)
            raise UnknownPhaseError(
                f"unknown phase {name!r}: this unit has {known}; "
                f"write one of these, or add it to scope.lifecycle({known}, ...)",
                str(name),
                self.phases,
            ) from None

    def _reach(self, upto: int) -> bool:
        if not self._deferred:
            if self._reached < upto:
                self._reached = upto
            return False
        started = False
        while self._reached < upto:
            self._reached += 1
            started = self._take(self._reached - 1) or started
        return started

    def _defer(self, task: AnyTask, index: int) -> None:
        """Hold a task until a phase comes; if it has come, let it go at once."""
        if self._deferred is None:
            self._deferred = {index: {task: None}}
        else:
            self._deferred.setdefault(index, {})[task] = None
        if index < self._reached:
            self._take(index)

    def _drop(self, task: AnyTask) -> None:
        """Let go of a task that ended before its phase came."""
        for tasks in (self._deferred or {}).values():
            tasks.pop(task, None)

    def _take(self, index: int) -> bool:
        """Start or skip what is deferred to a phase that has been reached."""
        started = False
        unwanted: list[AnyTask] = []
        for task in (self._deferred or {}).pop(index, ()):
            if task._state is not _DEFERRED:
                continue  # cancelled by the start of one before it, or started by the drain
            if task.config._runs_after[self._failed]:
                self._intake._phase_came(task)
                started = True
            else:
                unwanted.append(task)
        # Last, as an observer may schedule on this phase, or reach the next: that comes later.
        for task in unwanted:
            if task._state is _DEFERRED:
                task._finish(TaskState.SKIPPED)
        return started


class Phase(Configured):
    """One named moment of a unit of work, to schedule on. Made by `unit.phase(name)`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self._of.phases[self._index]

    @property
    def is_reached(self) -> bool:
        """Whether it has been reached; what is scheduled now starts at once."""
        return self._index < self._of._reached

    @property
    def _of(self) -> Lifecycle:
        assert self._unit is not None
        return self._unit
