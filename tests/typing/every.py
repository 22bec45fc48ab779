"""Read by type checkers, never run: what `every` accepts, and what has none.

See `schedule.py` for what a bare `type: ignore` stands for.
"""

from functools import partial
from typing import Any, assert_type

from fastapi_tasks import Tasks
from taskcore import Interval, Series, Task, TaskScope, current_scope
from taskcore.spi import ConfiguredScope
from tests.typing.schedule import count, fetch


async def accepted(scope: TaskScope) -> None:
    """What must hold."""
    assert_type(scope.every(60, fetch, "https://example.org", retries=1), Series)
    assert_type(scope.every(0.5, count, "text"), Series)
    assert_type(scope.every(Interval(60, jitter=5, overlap=True), partial(count, "text")), Series)
    assert_type(scope.task(timeout=5).every(60, fetch, "u"), Series)
    assert_type(scope.task(timeout=5).task(shield=True).every(60, fetch, url="u"), Series)
    assert_type(scope.task(timeout=5).task(shield=True), ConfiguredScope)
    series = current_scope().every(60, count, "text")
    assert_type(series.task, Task[..., Any] | None)
    assert_type(series.is_over, bool)
    assert_type(series.cancel(), bool)


async def refused(scope: TaskScope, tasks: Tasks) -> None:
    """What must not pass."""
    scope.every(60, fetch)  # type: ignore
    scope.every(60, fetch, 1)  # type: ignore
    scope.every(60, fetch, "u", tries=1)  # type: ignore
    scope.every(60, count, text=1)  # type: ignore
    scope.every(60, fetch("u"))  # type: ignore
    scope.every("60", count, "text")  # type: ignore
    scope.every(count, 60)  # type: ignore
    scope.task(name="x").every(60, count)  # type: ignore
    Interval("60")  # type: ignore
    Interval(60).seconds = 30  # type: ignore
    async with scope.lifecycle("end") as unit:
        unit.every(60, count, "text")  # type: ignore
        unit.task(name="x").every(60, count, "text")  # type: ignore
        unit.phase("end").every(60, count, "text")  # type: ignore
    tasks.every(60, count, "text")  # type: ignore
    tasks.after_response.task(name="x").every(60, count, "text")  # type: ignore
