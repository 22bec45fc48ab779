"""Which event loops the tests run on, and what no test may leave behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from inspect import iscoroutinefunction
from typing import Any

import pytest
from pytest_asyncio import is_async_test

from taskcore._clock import VirtualClockLoop

pytest_plugins = ["pytester"]  # for the tests of our own plugin

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# Seconds in which a thread that has been told to end has to be gone.
THREAD_END_TIMEOUT = 5.0


def _debug_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # On the first turn, since the runner of pytest-asyncio resets it before.
    loop.call_soon(loop.set_debug, True)
    return loop


LOOPS: dict[str, LoopFactory] = {"asyncio": _debug_loop}
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop
if sys.version_info >= (3, 12):

    def _eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    LOOPS["eager"] = _eager_loop


def pytest_configure(config: pytest.Config) -> None:
    """Declare our marker."""
    config.addinivalue_line("markers", "virtual: run the async test on the virtual clock only.")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run an async test on every loop that users run, or on the virtual clock alone."""
    if item.get_closest_marker("virtual"):
        return {"virtual": VirtualClockLoop}
    return LOOPS


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Give an async test a deadline of its own, half of what pytest-timeout allows.

    pytest-timeout can only end the whole run, since no signal gets through to uvloop.
    The virtual clock needs no deadline: it complains when nothing is left to wait for.
    """
    if not isinstance(item, pytest.Function) or not iscoroutinefunction(item.obj):
        return
    if item.get_closest_marker("virtual"):
        return
    item.obj = _with_timeout(item.obj, _timeout(item) / 2 or None)


def _timeout(item: pytest.Item) -> float:
    """Return the seconds that pytest-timeout allows a test; zero is no limit."""
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        return float(marker.args[0])
    option = item.config.getoption("timeout")
    return float(item.config.getini("timeout") if option is None else option)


def _with_timeout(
    test: Callable[..., Coroutine[Any, Any, None]], seconds: float | None
) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return limited


def pytest_collection_finish() -> None:
    """Spare the garbage collection after each test what is imported by now (40 ms)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that leaves a non-daemon thread, or that asyncio logs an error about.

    Such an error is an exception that nobody retrieved, or a task destroyed while
    pending. A test that expects one ends with `caplog.clear()`.
    """
    before = set(threading.enumerate())
    yield
    # Makes what was dropped without being awaited known now; pytest reports it. What lives on,
    # in pytest's own reports, is spared from then on, or each collection would take longer.
    gc.collect()
    gc.freeze()
    new = [t for t in threading.enumerate() if not t.daemon and t not in before]
    for thread in new:
        thread.join(THREAD_END_TIMEOUT)
    assert [thread for thread in new if thread.is_alive()] == []
    records = caplog.get_records("call") + caplog.get_records("teardown")
    errors = [record for record in records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors if record.name == "asyncio"] == []


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test that leaves a pending task, once its other fixtures have ended."""
    yield
    assert asyncio.all_tasks() - {asyncio.current_task()} == set()


@pytest.fixture(autouse=True)
def guard(request: pytest.FixtureRequest, nothing_left: None) -> None:
    """Order the guards: tasks are looked for before the loop closes, the rest after."""
    if is_async_test(request.node):
        request.getfixturevalue("no_task_left")
