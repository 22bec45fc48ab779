"""Plain functions in worker processes: what arrives, what dies, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskcore import Task, TaskConfig, TaskScope, TaskState
from taskcore import _processes as processes
from taskcore._clock import VirtualClockLoop
from taskcore._processes import ProcessCall, end_worker, pack
from taskcore.errors import (
    InvalidCallError,
    TaskTimeoutError,
    UnpicklableError,
    WorkerDiedError,
)
from tests.taskcore import process_functions as functions
from tests.taskcore.process_functions import echo, hold

# Seconds in which a thread or a process that has been told to end has to be gone.
END_TIMEOUT = 15.0
BIG = 10 * 1024 * 1024


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    """An error handler that is content."""


# A process takes its time to start, and what it does is none of the loop's business.
one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])

IN_PROCESS = TaskConfig(run_in="process", on_error=ignore)


class Gate:
    """Where functions that hold tell that they have begun, and get their release."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"{folder}/test")
        self._socket.setblocking(False)

    async def begun(self) -> int:
        """The id of the next process in which a function holds."""
        return int(await asyncio.get_running_loop().sock_recv(self._socket, 20))

    def release(self, name: str) -> None:
        self._socket.sendto(b"!", f"{self.folder}/{name}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate in a folder of the test."""
    with contextlib.closing(Gate(tmp_path)) as gate:
        yield gate


def is_gone(pid: int) -> bool:
    """Whether a process has ended and has been waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def join_threads(scope: TaskScope) -> None:
    """Wait until the threads that drive the scope's processes have ended."""
    for thread in threading.enumerate():
        if thread.name.startswith(f"{scope.name}-process-"):
            thread.join(END_TIMEOUT)
            assert not thread.is_alive()


async def error_of(task: Task[..., Any]) -> BaseException:
    """Wait for a task, which must fail, and return what it raised."""
    await task.wait()
    error = task.exception()
    assert error is not None
    return error


def notes_of(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


# -- results, and what is no result ---------------------------------------------------------


async def test_result() -> None:
    """L3: a function runs in another process, which takes the next one, too."""
    async with TaskScope(processes=1) as scope:
        in_process = scope.task(run_in="process")
        worker = await in_process.schedule(os.getpid)
        assert worker != os.getpid()
        assert await in_process.schedule(echo, 1, two=[2]) == ((1,), {"two": [2]})
        assert await in_process.schedule(functools.partial(echo, 1), 2) == ((1, 2), {})
        assert await in_process.schedule("a-b".split, "-") == ["a", "b"]
        assert await in_process.schedule(os.getpid) == worker


@one_loop
async def test_big_messages() -> None:
    """L3: arguments and results may be larger than what a pipe holds."""
    async with TaskScope(processes=1) as scope:
        payload = os.urandom(BIG)
        (answer,), _ = await scope.task(run_in="process").schedule(echo, payload)
        assert answer == payload


async def test_error() -> None:
    """L3: an error arrives as it was raised; a note has the stack in the process, and the cause."""
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        error = await error_of(scope.schedule(functions.fail))
        assert (type(error), str(error)) == (LookupError, "not found")
        own, stack = error.__notes__
        assert own == "a note of its own"
        assert stack.startswith("In the worker process:\nTraceback")
        assert 'process_functions.py", line ' in stack
        assert "ValueError: invalid literal" in stack
        for kind in (SystemExit, KeyboardInterrupt):
            error = await error_of(scope.schedule(functions.fail_with, kind))
            assert (type(error), str(error)) == (kind, "text")


@one_loop
async def test_error_is_logged_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    """I1: the log of a failure shows where it was raised in the process, and no frame of ours."""
    async with TaskScope(processes=1) as scope:
        task = scope.task(run_in="process", name="lookup").schedule(functions.fail)
        await task.wait()
    (record,) = caplog.records
    text = logging.Formatter().format(record)
    assert "task 'lookup' (id" in text
    assert "in fail" in text
    assert "\n  File" not in text[: text.index("In the worker process")]


@one_loop
async def test_errors_that_cannot_be_copied() -> None:
    """L3: an error that pickle cannot copy is told with its kind, its text and its stack."""
    cases = {
        functions.HoldsLock: r"the HoldsLock \(text\) cannot be copied .*: cannot pickle '_thr",
        functions.Forgetful: r"the Forgetful \(.*\) cannot be copied .*: .*missing 1 required",
        functions.BecomesText: r"the BecomesText \(text\) cannot be copied .* unpickled as str",
        functions.Frozen: r"the Frozen \(.*\) cannot be copied from its process",
        functions.Silent: r"the Silent \(<exception str\(\) failed>\) cannot be copied .*: silent",
    }
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        worker = await scope.schedule(os.getpid)
        for kind, message in cases.items():
            error = await error_of(scope.schedule(functions.fail_with, kind))
            with pytest.raises(UnpicklableError, match=f"^{message}"):
                raise error
            assert "in fail_with" in notes_of(error)
        sealed = await error_of(scope.schedule(functions.fail_with, functions.Sealed))
        assert type(sealed) is functions.Sealed
        assert await scope.schedule(os.getpid) == worker


@one_loop
async def test_results_that_cannot_be_copied() -> None:
    """L3: a result that pickle cannot copy fails its task with the reason, and nothing hangs."""
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        error = await error_of(scope.schedule(functions.return_lock))
        message = r"the result of 'return_lock' .*cannot pickle '_thread.lock'.*run_in='thread'"
        with pytest.raises(UnpicklableError, match=message):
            raise error
        error = await error_of(scope.schedule(functions.OnlyThere))
        with pytest.raises(UnpicklableError, match=r"the result of 'OnlyThere' .*: not here"):
            raise error
        assert await scope.schedule(echo) == ((), {})


@one_loop
async def test_failed_task_leaves_no_cycle() -> None:
    """C3: an error of a worker process is gone when its task is."""
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        gc.disable()
        try:
            error = await error_of(scope.schedule(functions.fail_with, WorkerDiedError))
            gone = weakref.ref(error)
            del error
            await scope.schedule(echo)
            assert gone() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("limits", [{"limit": 1, "backlog": 0}, {}], ids=["limit", "no limit"])
@one_loop
async def test_refused_at_the_call(limits: dict[str, Any]) -> None:
    """I7, L4: what cannot be pickled is refused with the reason, and nothing is scheduled."""
    async with TaskScope(**limits) as scope:
        in_process = scope.task(run_in="process")
        unit = scope.lifecycle("end")
        deferred = unit.phase("end").task(run_in="process")
        message = "cannot schedule .*<lambda>' in a process: .*at the top of a module"
        for schedule in (in_process.schedule, deferred.schedule):
            with pytest.raises(InvalidCallError, match=message):
                schedule(lambda: None)
            with pytest.raises(InvalidCallError, match=r"'echo' .*cannot pickle '_thread.lock'"):
                schedule(echo, threading.Lock())
        assert (scope._tasks, scope._deferred, scope._pools) == ({}, {}, {})
        assert await scope.task(run_in="loop").schedule(echo) == ((), {})
        task = deferred.schedule(echo, 1)
        unit.advance("end")
        assert await task == ((1,), {})


@one_loop
async def test_function_that_is_not_there() -> None:
    """L3: what the worker cannot unpickle fails the task with the reason."""
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        error = await error_of(scope.schedule(echo, functions.OnlyThere()))
        assert (type(error), str(error)) == (RuntimeError, "not here")
        assert "in only_in" in notes_of(error)


# -- what a worker has -----------------------------------------------------------------------


@one_loop
async def test_what_a_function_finds() -> None:
    """I4: the context stays in the process of the scope, and with it the current task."""
    functions.setting.set("seen")
    async with TaskScope(processes=1) as scope:
        value, no_task, no_scope = await scope.task(run_in="process").schedule(functions.context)
    assert value == "unset"
    assert "runs in a worker process" in no_task
    assert no_scope == "no scope"


@one_loop
async def test_handler_runs_at_home() -> None:
    """I2: the error handler of a process task runs in the process of the scope."""
    seen: list[tuple[int, str]] = []

    def handle(task: Task[..., Any], error: BaseException) -> None:
        seen.append((os.getpid(), f"{task.name}: {error}"))

    async with TaskScope(processes=1) as scope:
        scope.task(run_in="process", on_error=handle).schedule(functions.fail)
    assert seen == [(os.getpid(), "fail: not found")]


@one_loop
async def test_output(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a function prints is there when its task has ended, while the worker goes on."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    async with TaskScope(processes=1) as scope:
        await scope.task(run_in="process").schedule(functions.say, "hello")
        assert capfd.readouterr().out == "hello"


@one_loop
@pytest.mark.parametrize("func", [echo, functions.fail_with_it])
async def test_idle_worker_keeps_nothing(func: Callable[..., Any], tmp_path: Path) -> None:
    """A worker that waits for its next call holds nothing of the last one."""
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        task = scope.schedule(func, functions.TouchesAtEnd(str(tmp_path / "end")))
        await task.wait()
        await scope.schedule(echo)
        assert os.listdir(tmp_path) == ["end"]


@one_loop
async def test_programs_and_processes_started_by_a_function() -> None:
    """A program that a function starts gets its signals; multiprocessing refuses a child."""
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        assert await scope.schedule(functions.program_signals) == "[False, False] set()"
        error = await error_of(scope.schedule(functions.start_child))
        with pytest.raises(AssertionError, match="daemonic processes are not allowed"):
            raise error


@one_loop
async def test_number_of_processes(gate: Gate) -> None:
    """L3: no more than `processes` run at once, and they take what waits."""
    async with TaskScope(processes=2) as scope:
        tasks = [scope.task(run_in="process").schedule(hold, gate.folder, n) for n in "abcd"]
        first = {await gate.begun(), await gate.begun()}
        assert [task.state.value for task in tasks] == ["running"] * 2 + ["scheduled"] * 2
        gate.release("a")
        gate.release("b")
        assert {await gate.begun(), await gate.begun()} == first
        gate.release("c")
        gate.release("d")
    assert {task.result() for task in tasks} == first


@one_loop
async def test_two_scopes() -> None:
    """Two scopes have processes of their own, and the end of one leaves the other's alone."""
    async with TaskScope(processes=1, config=IN_PROCESS) as outer:
        one = await outer.schedule(os.getpid)
        async with TaskScope(processes=1, config=IN_PROCESS) as inner:
            assert await inner.schedule(os.getpid) != one
        join_threads(inner)
        assert await outer.schedule(os.getpid) == one


# -- deaths ----------------------------------------------------------------------------------


async def test_dead_worker(gate: Gate) -> None:
    """L3: a process that dies fails its own task with a clear error, and is replaced."""
    async with TaskScope(processes=2, config=IN_PROCESS) as scope:
        other = scope.schedule(hold, gate.folder, "other")
        worker = await gate.begun()
        task = scope.task(name="job").schedule(functions.exit_at_once, 3)
        message = (
            r"the worker process of task 'job' died \(exit code 3\) .*the next task gets a new"
        )
        with pytest.raises(WorkerDiedError, match=message):
            raise await error_of(task)
        with pytest.raises(WorkerDiedError, match=rf"\(exit code -{signal.SIGKILL.value}\)"):
            raise await error_of(scope.schedule(functions.kill_itself))
        assert await scope.schedule(echo) == ((), {})
        gate.release("other")
        assert await other == worker


@one_loop
async def test_worker_that_dies_idle() -> None:
    """L3: a process that died while it had nothing to do is replaced, and no task fails."""
    async with TaskScope(processes=1) as scope:
        in_process = scope.task(run_in="process")
        worker = await in_process.schedule(os.getpid)
        os.kill(worker, signal.SIGKILL)
        await asyncio.to_thread(os.waitid, os.P_PID, worker, os.WEXITED | os.WNOWAIT)
        assert await in_process.schedule(os.getpid) != worker
        assert is_gone(worker)


@one_loop
async def test_worker_that_dies_of_a_big_message(gate: Gate) -> None:
    """L3: a process that dies while it is sent a large message fails its task."""
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        worker = await scope.schedule(os.getpid)
        os.kill(worker, signal.SIGSTOP)
        task = scope.schedule(echo, bytes(BIG))
        await task.started.wait()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="exit code -9"):
            raise await error_of(task)
        assert await scope.schedule(echo) == ((), {})


@one_loop
async def test_worker_that_closes_its_pipe() -> None:
    """L3: a process that can answer no more is ended, whatever it does."""
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        with pytest.raises(WorkerDiedError, match="exit code -9"):
            raise await error_of(scope.schedule(functions.close_everything))


@one_loop
async def test_retry_after_a_death(tmp_path: Path) -> None:
    """L2, L3: a retry after the death of a process gets a new one."""

    async def twice(func: Callable[..., Awaitable[str]], *args: Any) -> str:
        with contextlib.suppress(WorkerDiedError):
            return await func(*args)
        return await func(*args)

    async with TaskScope(processes=1) as scope:
        in_process = scope.task(run_in="process", retry=twice)
        assert await in_process.schedule(functions.die_once, str(tmp_path / "dead")) == "done"


@one_loop
async def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """L3: where no process can be started, the task fails with the reason; the next may."""

    class Full:
        def Pipe(self) -> Any:
            raise OSError(errno.EMFILE, "too many open files")

    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        with monkeypatch.context() as patch:
            patch.setattr(processes, "_spawn", Full())
            task = scope.task(name="job").schedule(echo)
            message = "no worker process could be started for task 'job': .*too many open files"
            with pytest.raises(WorkerDiedError, match=message):
                raise await error_of(task)
        assert await scope.schedule(echo) == ((), {})


# -- cancellation, timeout, drain --------------------------------------------------------------


async def test_cancel_kills_the_process(gate: Gate) -> None:
    """S6: a function that is cancelled ends with its process; one that waits never begins."""
    path = f"{gate.folder}/begun"
    async with TaskScope(processes=1) as scope:
        in_process = scope.task(run_in="process")
        running = in_process.schedule(hold, gate.folder, "held")
        waiting = in_process.schedule(functions.touch, path)
        worker = await gate.begun()
        waiting.cancel()
        running.cancel()
        await running.wait()
        assert is_gone(worker)
        await in_process.schedule(echo)
    assert running.cancelled()
    assert (waiting.cancelled(), waiting.started.is_set()) == (True, False)
    assert "begun" not in os.listdir(gate.folder)


@pytest.mark.virtual
async def test_timeout_kills_the_process(gate: Gate) -> None:
    """L2: an attempt that takes longer than its timeout ends with its process."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    loop.busy = lambda: True  # until it holds, and again when time has passed
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        task = scope.task(timeout=5).schedule(hold, gate.folder, "held")
        worker = await gate.begun()
        loop.busy = lambda: loop.time() >= 5
        assert isinstance(await error_of(task), TaskTimeoutError)
        assert is_gone(worker)
        assert loop.time() == 5


@one_loop
async def test_drain_kills_what_hangs(gate: Gate) -> None:
    """S1, S3: a drain ends the processes that hang, and what waits for one never begins."""
    async with TaskScope(processes=1) as scope:
        in_process = scope.task(run_in="process")
        in_process.schedule(hold, gate.folder, "held")
        in_process.task(name="waiting").schedule(functions.touch, f"{gate.folder}/begun")
        worker = await gate.begun()
        report = await scope.drain(grace_period=0, shield_timeout=0)
        assert is_gone(worker)
    assert {entry.name for entry in report.cancelled} == {"hold", "waiting"}
    assert report.abandoned == ()
    assert "begun" not in os.listdir(gate.folder)


async def test_shielded_process_task(gate: Gate) -> None:
    """S2: a shielded function in a process goes on when the grace period is over."""
    async with TaskScope(processes=2) as scope:
        in_process = scope.task(run_in="process")
        shielded = in_process.task(shield=True).schedule(hold, gate.folder, "shielded")
        other = in_process.schedule(hold, gate.folder, "other")
        await gate.begun()
        await gate.begun()
        drain = asyncio.ensure_future(scope.drain(grace_period=0, shield_timeout=30))
        await other.wait()
        assert (other.cancelled(), shielded.state) == (True, TaskState.RUNNING)
        gate.release("shielded")
        report = await drain
    assert [entry.id for entry in report.succeeded] == [shielded.id]


def call_of(func: Callable[..., Any], *args: Any) -> ProcessCall:
    return ProcessCall(func.__name__, pack(func, args, {}))


@one_loop
async def test_kill_that_comes_too_late(gate: Gate) -> None:
    """S6: a call that is killed after its answer leaves the next call of its worker alone."""
    first, second = call_of(os.getpid), call_of(hold, gate.folder, "held")
    answers: list[int] = []

    def drive() -> None:
        answers.append(first.run())
        answers.append(second.run())
        end_worker()

    driving = asyncio.ensure_future(asyncio.to_thread(drive))
    worker = await gate.begun()
    first.kill()
    gate.release("held")
    await driving
    assert answers == [worker, worker]


def test_kill_that_comes_too_early(tmp_path: Path) -> None:
    """S6: a call that is killed before it was given to its worker is never run."""
    killed = call_of(functions.touch, str(tmp_path / "begun"))
    try:
        worker = call_of(os.getpid).run()
        killed.kill()
        with pytest.raises(WorkerDiedError, match="the process of task 'touch' was stopped"):
            killed.run()
        assert call_of(os.getpid).run() == worker
    finally:
        end_worker()
    assert not (tmp_path / "begun").exists()


def test_kill_that_comes_with_the_answer() -> None:
    """S6: a process that is killed while its call ends takes no other call."""
    call = call_of(os.getpid)
    try:
        worker = call.run()
        assert call._worker is not None
        call._worker._call = call  # as before `ask` has returned
        call.kill()
        assert call_of(os.getpid).run() != worker
    finally:
        end_worker()


# -- the end of the scope -----------------------------------------------------------------------


@one_loop
async def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the scope has ended its processes end by themselves: no zombie, no open file."""
    monkeypatch.setattr(processes, "END_TIME", END_TIMEOUT)
    async with TaskScope(processes=1) as scope:  # starts what multiprocessing keeps for good
        await scope.task(run_in="process").schedule(echo)
    join_threads(scope)
    gc.collect()
    files = set(os.listdir("/proc/self/fd"))
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        dead = scope.schedule(functions.kill_itself)
        worker = await scope.schedule(functions.touch_at_exit, str(tmp_path / "end"))
    del dead
    join_threads(scope)
    assert is_gone(worker)
    assert os.listdir(tmp_path) == ["end"]
    assert multiprocessing.active_children() == []
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == files


@one_loop
async def test_worker_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end by itself when its scope has is killed."""
    monkeypatch.setattr(processes, "END_TIME", 0.01)
    async with TaskScope(processes=1) as scope:
        worker = await scope.task(run_in="process").schedule(functions.never_end)
    join_threads(scope)
    assert is_gone(worker)


@one_loop
async def test_no_process_is_started_when_the_interpreter_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S1: what still waits for a process when the interpreter ends gets none."""
    monkeypatch.setattr(processes, "_is_exiting", True)
    async with TaskScope(processes=1, config=IN_PROCESS) as scope:
        with pytest.raises(WorkerDiedError, match="the interpreter ends"):
            raise await error_of(scope.schedule(echo))


# -- whole programs -----------------------------------------------------------------------------

HEAD = textwrap.dedent(
    """
    import asyncio, contextlib, logging, os, signal, sys, time
    from multiprocessing import current_process, util
    from pathlib import Path
    from taskcore import TaskScope
    from tests.taskcore.process_functions import hold

    folder = sys.argv[1]
    """
)


class Program:
    """A program in a session of its own, with a folder for its gate.

    Its output ends when it has ended, and every process that it started.
    """

    def __init__(self, folder: Path, source: str) -> None:
        path = folder / "program.py"
        path.write_text(HEAD + textwrap.dedent(source))
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, str(path), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])},
        )

    def end(self) -> tuple[int, str, str]:
        """Wait until nothing is left of it: exit code, stdout, stderr."""
        stdout, stderr = self.process.communicate(timeout=END_TIMEOUT)
        return self.process.returncode, stdout, stderr

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """Starts programs, and ends what is left of them."""
    with contextlib.ExitStack() as stack:
        yield lambda source: stack.enter_context(contextlib.closing(Program(tmp_path, source)))


StartProgram = Callable[[str], Program]


def test_import_is_late() -> None:
    """C4: `import taskcore` brings neither multiprocessing nor pickle; the first process does."""
    code = (
        "import sys, asyncio; old = set(sys.modules); import taskcore; "
        "print({'multiprocessing', 'pickle'} & (set(sys.modules) - old))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_main_module(program: StartProgram) -> None:
    """L3: functions and errors of the main module are found in both processes."""
    running = program(
        """
        class Odd(Exception):
            pass

        def halve(number):
            if number % 2:
                raise Odd(number)
            return number // 2

        async def main():
            async with TaskScope(processes=1) as scope:
                in_process = scope.task(run_in="process", on_error=lambda task, error: None)
                print(await in_process.schedule(halve, 4))
                try:
                    await in_process.schedule(halve, 5)
                except Odd as error:
                    print(error)

        if __name__ == "__main__":
            asyncio.run(main())
        """
    )
    assert running.end() == (0, "2\n5\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@one_loop
async def test_signal_to_the_whole_group(
    number: signal.Signals, gate: Gate, program: StartProgram
) -> None:
    """S2, S5: a signal to every process ends none that starts, and none that is busy."""
    running = program(
        """
        async def main():
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, over.set)
            async with TaskScope(processes=2, grace_period=0) as scope:
                shielded = scope.task(run_in="process", shield=True)
                shielded.schedule(hold, folder, "one")
                shielded.schedule(hold, folder, "two")
                await over.wait()
                report = await scope.drain()
            print(len(report.succeeded), "succeeded")

        if __name__ == "__main__":
            asyncio.run(main())
        else:  # in a worker that starts
            try:
                os.mkdir(Path(folder, "is first"))
            except FileExistsError:
                hold(folder, "starts second")
            else:
                hold(folder, "starts first")
        """
    )
    for names in (("starts first", "starts second"), ("one", "two")):
        await gate.begun()
        await gate.begun()
        os.killpg(running.process.pid, number)
        for name in names:
            gate.release(name)
    assert running.end() == (0, "2 succeeded\n", "")


@one_loop
async def test_parent_that_is_killed(gate: Gate, program: StartProgram) -> None:
    """The processes of a program that is killed end by themselves: a busy one when it is done."""
    running = program(
        """
        async def main():
            async with TaskScope(processes=2) as scope:
                in_process = scope.task(run_in="process")
                busy = in_process.schedule(hold, folder, "busy")
                await in_process.schedule(hold, folder, "idle")
                print("idle", flush=True)
                await busy

        if __name__ == "__main__":
            asyncio.run(main())
        """
    )
    await gate.begun()
    await gate.begun()
    gate.release("idle")
    assert running.process.stdout is not None
    assert running.process.stdout.readline() == "idle\n"
    running.process.kill()
    gate.release("busy")
    assert running.end() == (-signal.SIGKILL, "", "")


@one_loop
async def test_interpreter_exits_though_a_worker_hangs(gate: Gate, program: StartProgram) -> None:
    """S1: when the interpreter ends, its processes do: hung, idle, and those yet to come."""
    running = program(
        """
        async def main():
            async with contextlib.AsyncExitStack() as never_closed:
                scope = await never_closed.enter_async_context(TaskScope(processes=2))
                in_process = scope.task(run_in="process", shield=True)
                await in_process.schedule(os.getpid)
                hung = in_process.schedule(hold, folder, "hung")
                for number in range(3):
                    in_process.schedule(hold, folder, f"next-{number}")
                await hung.started.wait()
                never_closed.pop_all()
                await asyncio.to_thread(Path(folder, "exit").read_text)

        if __name__ == "__main__":
            util.log_to_stderr(logging.ERROR)  # puts the hook of multiprocessing before ours
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
        """
    )
    os.mkfifo(Path(gate.folder, "exit"))
    await gate.begun()
    await gate.begun()
    await asyncio.to_thread(Path(gate.folder, "exit").write_text, "now")
    assert running.end()[:2] == (0, "")


@one_loop
async def test_main_module_that_cannot_be_imported(program: StartProgram) -> None:
    """L3: a process that does not start fails its task with the likely reason; nothing hangs."""
    running = program(
        """
        async def main():
            async with TaskScope(processes=1) as scope:
                await scope.task(run_in="process", name="job").schedule(os.getpid)

        asyncio.run(main())
        """
    )
    code, _, stderr = running.end()
    assert code == 1
    assert "An attempt has been made to start a new process before the" in stderr  # the worker's
    last = stderr.splitlines()[-1]
    assert "WorkerDiedError: the worker process of task 'job' did not start (exit code 1)" in last
    assert """under 'if __name__ == "__main__":'""" in last


def test_parent_that_is_a_daemon() -> None:
    """L3: a daemon of multiprocessing, such as a worker of hypercorn, may have processes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    parent = context.Process(target=functions.scope_in_daemon, args=(theirs,), daemon=True)
    parent.start()
    theirs.close()
    with ours:
        assert ours.poll(END_TIMEOUT)
        is_daemon, parent_id, worker = ours.recv()
    parent.join(END_TIMEOUT)
    assert (is_daemon, parent_id, parent.exitcode) == (True, parent.pid, 0)
    assert worker != parent_id
