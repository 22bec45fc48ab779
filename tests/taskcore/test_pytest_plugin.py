"""The pytest plugin, in test suites of users: not there unless asked for, and what it gives."""

from __future__ import annotations

import sys

import pytest

# Here, or each run of a suite imports its own.
import taskcore.testing  # noqa: F401  # pyright: ignore[reportUnusedImport]

WITH_PLUGIN = 'pytest_plugins = ["taskcore.pytest_plugin"]\n'
LOOPS = """
import asyncio

class OwnLoop(asyncio.SelectorEventLoop):
    pass

def pytest_asyncio_loop_factories(config, item):
    return {"own": OwnLoop, "usual": asyncio.new_event_loop}
"""


@pytest.fixture(autouse=True)
def ini(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the user's suite; hypothesis would take a second to load."""
    # pytest warns of a plugin that tests of ours have imported before it could.
    monkeypatch.delitem(sys.modules, "taskcore.pytest_plugin", raising=False)
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "addopts = --strict-markers -p no:hypothesispytest\nfilterwarnings = error"
    )


def test_not_loaded_unless_asked_for(pytester: pytest.Pytester) -> None:
    """A suite that does not ask for the plugin has neither its marker nor its fixtures."""
    pytester.makepyfile("def test(task_scope): ...")
    pytester.runpytest("--markers").stdout.no_fnmatch_line("*virtual_clock*")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*fixture 'task_scope' not found*")


def test_loaded_by_an_option(pytester: pytest.Pytester) -> None:
    """`-p taskcore.pytest_plugin` loads it as well, and documents its marker."""
    result = pytester.runpytest("-p", "taskcore.pytest_plugin", "--markers")
    result.stdout.fnmatch_lines("@pytest.mark.virtual_clock: run the async test *")


@pytest.mark.parametrize("loops", ["", LOOPS], ids=["usual loops", "own loops"])
def test_virtual_clock(pytester: pytest.Pytester, loops: str) -> None:
    """A test with the marker runs on the virtual clock, its fixtures too; others as they did."""
    pytester.makeconftest(WITH_PLUGIN + loops)
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        from taskcore.testing import VirtualClockLoop

        @pytest.fixture
        async def fixture():
            before = asyncio.get_running_loop()
            yield before
            assert asyncio.get_running_loop() is before

        @pytest.mark.virtual_clock
        async def test_virtual(fixture):
            assert isinstance(fixture, VirtualClockLoop)
            assert asyncio.get_running_loop() is fixture
            await asyncio.sleep(90_000)
            assert fixture.time() == 90_000.0

        async def test_real(fixture):
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        @pytest.mark.virtual_clock
        def test_plain():
            asyncio.run(test_real(None))
        """
    )
    result = pytester.runpytest("-v")
    result.assert_outcomes(passed=4 if loops else 3)
    names = ["test_real[[]own[]] *", "test_real[[]usual[]] *"] if loops else ["test_real *"]
    result.stdout.fnmatch_lines([f"*::{name}" for name in ["test_virtual *", *names]])


def test_virtual_clock_under_another_plugin(pytester: pytest.Pytester) -> None:
    """A test that anyio's plugin would run on a real clock is refused, and told what to write."""
    pytester.makeconftest(WITH_PLUGIN)
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        from taskcore.testing import VirtualClockLoop

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": VirtualClockLoop}

        @pytest.mark.anyio
        @pytest.mark.virtual_clock
        async def test_marked(): ...

        @pytest.mark.anyio
        async def test_backend():
            await asyncio.sleep(90_000)
        """
    )
    result = pytester.runpytest("--asyncio-mode", "strict")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("*'virtual_clock' needs a test that pytest-asyncio runs*anyio*")


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_task_scope(pytester: pytest.Pytester, mode: str) -> None:
    """The fixture is an open scope, the current one, drained when the test has ended."""
    pytester.makeconftest(WITH_PLUGIN)
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        from taskcore import ScopeState, TaskState, current_scope
        from taskcore.testing import wait_idle

        left = []
        pytestmark = [pytest.mark.asyncio, pytest.mark.virtual_clock]

        async def test_scope(task_scope):
            assert current_scope() is task_scope
            assert task_scope.name == "test"
            done = task_scope.schedule(asyncio.sleep, 1)
            await wait_idle(task_scope)
            left.append(task_scope)
            left.append(task_scope.schedule(asyncio.sleep, 3))
            left.append(task_scope.schedule(asyncio.Event().wait))

        async def test_afterwards():
            scope, short, endless = left
            assert scope.state is ScopeState.CLOSED
            assert short.state is TaskState.SUCCEEDED
            assert endless.state is TaskState.CANCELLED
        """
    )
    pytester.runpytest("--asyncio-mode", mode).assert_outcomes(passed=2)


def test_task_scope_options(pytester: pytest.Pytester) -> None:
    """Its options come from a fixture that a suite overrides."""
    pytester.makeconftest(
        WITH_PLUGIN
        + """
import pytest

@pytest.fixture
def task_scope_options():
    return {"limit": 1, "name": "mine"}
"""
    )
    pytester.makepyfile(
        """
        async def test_scope(task_scope):
            states = [task_scope.schedule(print).state.value for _ in range(2)]
            assert (task_scope.name, states) == ("mine", ["scheduled", "waiting"])
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_task_that_fails(pytester: pytest.Pytester) -> None:
    """A failed task fails no test; a test that fails shows it in the log."""
    pytester.makeconftest(WITH_PLUGIN)
    pytester.makepyfile(
        """
        import pytest

        async def fail():
            raise ValueError("no paper")

        async def test_task_fails(task_scope):
            with pytest.raises(ValueError):
                await task_scope.schedule(fail)

        async def test_fails(task_scope):
            await task_scope.schedule(fail).wait()
            assert not "printed"
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Captured log call*", "ERROR*task 'fail' (id *) failed"])
