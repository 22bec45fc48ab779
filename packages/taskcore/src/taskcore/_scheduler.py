"""What can be scheduled on: a scope, a unit of work, a phase, and each with options.

`schedule` passes everything but the function on to the function. Options of our own
go through `task`, so that they never collide with the user's keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from taskcore._config import TaskConfig, TaskOptions
from taskcore._task import Task
from taskcore.errors import ConfigValueError

if TYPE_CHECKING:
    from taskcore._intake import Intake
    from taskcore._phase import Lifecycle

P = ParamSpec("P")
T = TypeVar("T")


class Scheduler:
    """Something that takes tasks.

    Attributes:
        config: The settings of what is scheduled here.
    """

    __slots__ = ()
    config: TaskConfig
    if TYPE_CHECKING:  # whoever reads annotations at run time could not resolve these
        _intake: Intake
        _unit: Lifecycle | None
        _index: int

    @overload
    def schedule(
        self, func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[P, T]: ...

    @overload
    def schedule(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[P, T]: ...

    def schedule(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[..., Any]:
        """Accept a call of `func`, to start at the loop's next turn or when its phase comes.

        Returns at once and runs no user code before. May be called from any thread that
        runs no event loop of its own.

        Args:
            func: A coroutine function, which runs on the loop, or a plain function, which
                runs in a thread of the scope.
            *args: Positional arguments of `func`.
            **kwargs: Keyword arguments of `func`.

        Returns:
            The handle, to await for the result, or to leave alone.

        Raises:
            InvalidCallError: `func` cannot be called with these arguments.
            ConfigError: The settings do not fit `func` or this scope.
            BacklogFullError: The scope's limit and backlog are used up.
            ScopeClosedError: The scope is draining or has ended.
            WrongLoopError: Called on another event loop than the scope's.
        """
        return self._intake._accept(func, args, kwargs, self.config, self._unit, self._index)

    def task(self, **options: Unpack[TaskOptions]) -> Configured:
        """Set options for what is scheduled next: `scope.task(shield=True).schedule(save)`.

        Args:
            **options: Those of `TaskConfig`; what is left out keeps its default.

        Returns:
            A scheduler with these options. It can be kept, used often, and refined.

        Raises:
            ConfigError: An option makes no sense.
        """
        return configured(Configured, self._intake, self._refine(options), self._unit, self._index)

    def _refine(self, options: TaskOptions) -> TaskConfig:
        if "when" in options and self._unit is None and options["when"] is not None:
            raise ConfigValueError(
                f"when={options['when']!r} needs a phase, and a task scheduled here starts at "
                "once; write phase.task(when=...), such as tasks.after_response.task(when=...) "
                "or unit.phase('...').task(when=...)"
            )
        return self.config._refine(options)


class Configured(Scheduler):
    """A scheduler on a scope, or on a phase of a unit of work, with settings of its own."""

    __slots__ = ("_index", "_intake", "_unit", "config")


C = TypeVar("C", bound=Configured)
_new = object.__new__


def configured(
    kind: type[C], intake: Intake, config: TaskConfig, unit: Lifecycle | None, index: int
) -> C:
    """Make a scheduler of that kind, on `intake` or on the phase `index` of `unit`.

    Not by a call of the class, which takes a fifth longer.
    """
    made = _new(kind)
    made._intake = intake
    made._unit = unit
    made._index = index
    made.config = config
    return made
