"""A plugin for pytest: async tests on a virtual clock, and a scope for each test.

Nothing loads it but a test suite that asks for it, with
`pytest_plugins = ["taskcore.pytest_plugin"]` in its top `conftest.py` or with
`pytest -p taskcore.pytest_plugin`. It needs pytest-asyncio 1.4 or later, which runs the tests.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from typing import TypeAlias

import pytest
import pytest_asyncio

from taskcore._clock import VirtualClockLoop
from taskcore._scope import ScopeOptions, TaskScope

__all__ = ["task_scope", "task_scope_options"]

MARKER = "virtual_clock"

LoopFactories: TypeAlias = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", f"{MARKER}: run the async test on a loop whose time jumps instead of passing."
    )


@pytest.hookimpl(wrapper=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Generator[None, LoopFactories | None, LoopFactories]:
    """Run a test with our marker on the virtual clock; leave others where they would run."""
    factories = yield
    if item.get_closest_marker(MARKER):
        return {MARKER: VirtualClockLoop}
    return factories or {"asyncio": asyncio.new_event_loop}  # as if nobody had been asked


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse an async test with our marker that another plugin runs, on a real clock."""
    is_async = inspect.iscoroutinefunction(getattr(item, "obj", None))
    if is_async and item.get_closest_marker(MARKER) and not pytest_asyncio.is_async_test(item):
        pytest.fail(
            f"the marker '{MARKER}' needs a test that pytest-asyncio runs: mark it 'asyncio' as "
            "well, or set asyncio_mode = 'auto'; for anyio's plugin let the fixture anyio_backend "
            "return ('asyncio', {'loop_factory': taskcore.testing.VirtualClockLoop})",
            pytrace=False,
        )


@pytest.fixture
def task_scope_options() -> ScopeOptions:
    """The options of `task_scope`: none. Override it to set some."""
    return {}


@pytest_asyncio.fixture
async def task_scope(task_scope_options: ScopeOptions) -> AsyncIterator[TaskScope]:
    """An open scope on the loop of the test, drained at the end of the test.

    What is left then gets the grace period of the scope, and is cancelled. A failed task
    fails no test, as it harms nothing in production: it is in the log that pytest
    captures, and whoever awaits it gets the exception.
    """
    options: ScopeOptions = {"name": "test", **task_scope_options}
    async with TaskScope(**options) as scope:
        yield scope
        await scope.drain()
