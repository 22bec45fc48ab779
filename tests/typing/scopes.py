"""Read by type checkers, never run: scopes, units of work, phases and reports.

See `schedule.py` for what a bare `type: ignore` stands for.
"""

from typing import Any, assert_type

from taskcore import (
    DrainEntry,
    DrainReport,
    Lifecycle,
    Phase,
    ScopeState,
    Task,
    TaskConfig,
    TaskEvent,
    TaskScope,
    current_scope,
    current_task,
)
from tests.typing.schedule import count, fetch


def watch(event: TaskEvent) -> None:
    """An observer."""


async def keep(report: DrainReport) -> None:
    """An async `on_drain`."""


async def scopes() -> None:
    """A scope takes its options by name, and opens as itself."""
    async with TaskScope(
        limit=50, backlog=None, grace_period=5, shield_timeout=None, config=TaskConfig(), name="app"
    ) as scope:
        assert_type(scope, TaskScope)
        assert_type(scope.state, ScopeState)
    TaskScope(threads=4, processes=2, lanes={"mail": 5}, observers=[watch], on_drain=keep)
    TaskScope(observers={watch}, on_drain=print)
    assert_type(current_scope(), TaskScope)
    assert_type(current_task(), Task[..., Any])
    assert_type(await current_scope().wait_for_room("mail"), None)
    assert_type(await current_scope().wait_idle(), None)


async def wrong_scopes(scope: TaskScope) -> None:
    """An option that a scope does not have, or a value of another type, is refused."""
    TaskScope(50)  # type: ignore
    TaskScope(limit="1")  # type: ignore
    TaskScope(limits=1)  # type: ignore
    TaskScope(grace_period="5")  # type: ignore
    TaskScope(config={"shield": True})  # type: ignore
    TaskScope(lanes={"mail": "5"})  # type: ignore
    TaskScope(observers=watch)  # type: ignore
    TaskScope(observers=[keep])  # type: ignore
    TaskScope(observers=iter([watch]))  # type: ignore
    TaskScope(on_drain=watch)  # type: ignore
    with scope:  # type: ignore
        pass
    await scope.wait_for_room(5)  # type: ignore
    current_scope("app")  # type: ignore


async def phases(scope: TaskScope) -> None:
    """A phase takes a function with its arguments, as the scope does."""
    async with scope.lifecycle("stored", "answered", config=TaskConfig(shield=True)) as unit:
        assert_type(unit, Lifecycle)
        assert_type(unit.phases, tuple[str, ...])
        assert_type(unit.phase("stored"), Phase)
        assert_type(unit.phase("stored").is_reached, bool)
        assert_type(await unit.schedule(count, "text"), int)
        assert_type(await unit.task(shield=True).schedule(fetch, "u"), bytes)
        assert_type(await unit.phase("stored").schedule(fetch, "u", retries=1), bytes)
        assert_type(await unit.phase("answered").task(when="always").schedule(count, "text"), int)
        assert_type(unit.advance("stored"), bool)
        assert_type(unit.is_reached("stored"), bool)


async def wrong_phases(scope: TaskScope) -> None:
    """Its arguments are held against the function's parameters, with options and without."""
    scope.lifecycle(1)  # type: ignore
    scope.lifecycle("stored", shield=True)  # type: ignore
    with scope.lifecycle("stored"):  # type: ignore
        pass
    async with scope.lifecycle("stored") as unit:
        unit.schedule(count)  # type: ignore
        unit.phase(0)  # type: ignore
        unit.advance()  # type: ignore
        unit.phase("stored").schedule(fetch)  # type: ignore
        unit.phase("stored").schedule(fetch, 1)  # type: ignore
        unit.phase("stored").task(when="always").schedule(fetch, "u", tries=1)  # type: ignore
        unit.phase("stored").task(when="never")  # type: ignore
        unit.phase("stored").schedule(fetch, when="always")  # type: ignore


async def reports(scope: TaskScope) -> None:
    """A drain takes two lengths by name, and returns a report that cannot be changed."""
    report = await scope.drain(grace_period=5, shield_timeout=None)
    assert_type(report, DrainReport)
    for entries in (report.succeeded, report.failed, report.cancelled, report.abandoned):
        assert_type(entries, tuple[DrainEntry, ...])
    assert_type(report.duration, float)
    entry = report.succeeded[0]
    assert_type((entry.name, entry.id, entry.duration), tuple[str, int, float])
    await scope.drain(5.0)  # type: ignore
    await scope.drain(grace_period="5")  # type: ignore
    await scope.drain(shield=20.0)  # type: ignore
    report.failed = ()  # type: ignore
    entry.duration = 0.0  # type: ignore
