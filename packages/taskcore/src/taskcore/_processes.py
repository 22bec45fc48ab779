"""Worker processes for plain functions that keep a processor busy.

Each worker process is driven by one thread of a `ThreadPool`, which waits for its
answer, so limits, cancellation and shutdown are those of threads. What is different: a
process can be stopped. A cancelled call kills its process, and the next call starts a
new one.

A worker is idle, busy with one call, or stopped: `idle <-> busy`, and from both to
`stopped`. Every move is made under the worker's lock. Invariants:
    - An idle worker that is stopped ends by itself, as its pipe closes; a busy one is
      killed. A stopped one takes no call.
    - A call stops its worker only while the worker is busy with it, never with the next.
    - Each process is waited for: by its thread, or when the interpreter ends. What does
      not end in time is killed.

`concurrent.futures` has no such end: its pool is joined when the interpreter ends,
stuck or not, and one dead worker breaks the whole pool.

This module is imported when the first process is needed, not by `import taskcore`, whose
time `multiprocessing` would double (promise C4).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from multiprocessing import util
from multiprocessing.connection import Connection
from traceback import TracebackException
from typing import Any, NoReturn

from taskcore._call import name_of
from taskcore.errors import InvalidCallError, UnpicklableError, WorkerDiedError

if sys.platform == "win32":  # pragma: no cover (the tests run on POSIX)
    from multiprocessing.popen_spawn_win32 import Popen
else:
    from multiprocessing.popen_spawn_posix import Popen
    from multiprocessing.resource_tracker import ensure_running

END_TIME = 2.0
"""Seconds in which a process that may end by itself has to, before it is killed."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_spawn = multiprocessing.get_context("spawn")
_here = threading.local()

_door = threading.Lock()  # for the two lines below
_workers: set[_Worker] = set()
_is_exiting = False


# -- the call -----------------------------------------------------------------------------


def pack(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle a call.

    Raises:
        InvalidCallError: The function or an argument cannot be pickled.
    """
    try:
        return pickle.dumps((func, args, kwargs))
    except Exception as error:
        raise InvalidCallError(
            f"cannot schedule '{name_of(func)}' in a process: {error}; use a function defined "
            "at the top of a module and arguments that pickle can copy, or run_in='thread'"
        ) from None


class ProcessCall:
    """One call in a worker process; `run` is what the driving thread runs."""

    def __init__(self, name: str, packed: bytes) -> None:
        self.name = name
        self.packed = packed
        self.is_killed = False
        self._worker: _Worker | None = None

    def run(self) -> Any:
        """Run the call in this thread's worker process; return or raise what it did.

        Raises:
            WorkerDiedError: The process could not be started, or ended without an answer.
            UnpicklableError: What the function returned or raised cannot be copied.
        """
        self._worker = worker = _worker_of_thread(self.name)
        failed, outcome, what, stack = worker.ask(self)
        value: Any
        try:
            value = pickle.loads(outcome)
            if failed and not isinstance(value, BaseException):
                raise TypeError(f"it was unpickled as {type(value).__name__}")
        except Exception as error:
            failed, value = True, _unpicklable(what, error)
        if not failed:
            return value
        if stack:
            with contextlib.suppress(Exception):  # an error that lets nothing be added to it
                value.add_note(f"In the worker process:\n{stack}")
        raise value

    def kill(self) -> None:
        """End the process that runs the call, or keep the call from being run."""
        self.is_killed = True
        if self._worker is not None:
            self._worker.stop(self)


def _unpicklable(what: str, problem: Exception) -> UnpicklableError:
    return UnpicklableError(
        f"{what} cannot be copied from its process: {problem}; "
        "use what pickle can copy, or run_in='thread'"
    )


# -- the worker, as its thread sees it ------------------------------------------------------


class _Worker:
    """A process that answers one call after the other; see the module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._call: ProcessCall | None = None
        self._is_ready = False
        self._is_stopped = False
        self._pipe, theirs = _spawn.Pipe()
        with theirs:
            self._process = _start(theirs)

    @property
    def is_usable(self) -> bool:
        """Whether it can be given a call."""
        return not self._is_stopped and self._process.poll() is None

    def ask(self, call: ProcessCall) -> tuple[bool, bytes, str, str]:
        """Let it run a call: whether that failed, the pickled outcome, its name, the stack."""
        with self._lock:
            if self._is_stopped or call.is_killed:
                raise WorkerDiedError(f"the process of task '{call.name}' was stopped")
            self._call = call
        try:
            if not self._is_ready:
                self._pipe.recv_bytes()
                self._is_ready = True
            self._pipe.send_bytes(call.packed)
            answer: tuple[bool, bytes, str, str] = pickle.loads(self._pipe.recv_bytes())
            return answer
        except (EOFError, OSError):
            self._raise_died(call)
        finally:
            with self._lock:
                self._call = None

    def _raise_died(self, call: ProcessCall) -> NoReturn:
        code = self.reap()  # who does not answer any more is of no use, dead or alive
        if self._is_ready:
            raise WorkerDiedError(
                f"the worker process of task '{call.name}' died (exit code {code}) before it "
                "answered; the next task gets a new one"
            ) from None
        raise WorkerDiedError(
            f"the worker process of task '{call.name}' did not start (exit code {code}); stderr "
            "says why. It imports the main module: keep what only a program does under "
            "'if __name__ == \"__main__\":'"
        ) from None

    def stop(self, call: ProcessCall | None = None) -> None:
        """Let it end; kill it if it is busy. With a `call`, only if it is busy with that."""
        with self._lock:
            if call is not None and self._call is not call:
                return
            if self._call is not None:
                self._process.kill()
            elif not self._is_stopped:
                self._pipe.close()
            self._is_stopped = True

    def reap(self, deadline: float = 0.0) -> int | None:
        """Kill it if it goes on after the deadline; wait for its end, return the exit code."""
        if self._process.wait(max(0.0, deadline - time.monotonic())) is None:
            self._process.kill()
            self._process.wait()
        with _door:
            _workers.discard(self)
        return self._process.returncode


def _worker_of_thread(name: str) -> _Worker:
    worker: _Worker | None = getattr(_here, "worker", None)
    if worker is not None and worker.is_usable:
        return worker
    end_worker()
    try:
        with _door:
            if _is_exiting:
                raise RuntimeError("the interpreter ends")
            _stop_workers_at_exit()
            _here.worker = worker = _Worker()
            _workers.add(worker)
    except Exception as error:
        raise WorkerDiedError(
            f"no worker process could be started for task '{name}': {error}"
        ) from error
    return worker


def end_worker() -> None:
    """End the worker process of this thread, if it has one."""
    worker: _Worker | None = _here.__dict__.pop("worker", None)
    if worker is not None:
        worker.stop()
        worker.reap(time.monotonic() + END_TIME)


@cache
def _stop_workers_at_exit() -> None:
    # Not atexit, which a forked process would run as well, and a process of multiprocessing not.
    util.Finalize(None, _end_all, exitpriority=0)


def _end_all() -> None:
    global _is_exiting
    with _door:
        _is_exiting = True
        workers = list(_workers)
    for worker in workers:
        worker.stop()
    deadline = time.monotonic() + END_TIME
    for worker in workers:
        worker.reap(deadline)


def _start(theirs: Connection) -> Popen:
    """Start a process. Signals wait until it can handle them.

    Not `process.start()`, for two reasons. It refuses to start a process from a daemon of
    multiprocessing, which hypercorn's workers are. And what it starts is sent SIGTERM when the
    interpreter ends, and then waited for without a limit.
    """
    name = threading.current_thread().name
    process = _spawn.Process(target=_serve, args=(theirs,), name=name, daemon=True)
    if sys.platform == "win32":  # pragma: no cover (the tests run on POSIX)
        return Popen(process)
    ensure_running()  # by itself it would let the signals in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return Popen(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- the worker, from inside ------------------------------------------------------------------


def _serve(pipe: Connection) -> None:
    """Answer calls until the pipe closes: the scope has ended, or the process that has it."""
    # Both may go to every process of a service. When this one ends is up to the drain of the
    # scope: what runs here may be shielded. No SIG_IGN, which programs started here would inherit.
    for number in _SIGNALS:
        signal.signal(number, _ignore)
    if sys.platform != "win32":  # pragma: no branch (the tests run on POSIX)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"ready")
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _ignore(number: int, frame: object) -> None:
    pass


def _answer(packed: bytes) -> bytes:
    """Run a packed call; the answer is what `_Worker.ask` returns, pickled."""
    failed, what, stack = False, "the result", ""
    try:
        func, args, kwargs = pickle.loads(packed)
        what = f"the result of '{name_of(func)}'"
        value = func(*args, **kwargs)
    except BaseException as error:
        told = TracebackException.from_exception(error)
        stack = "".join(told.format())
        failed, what = True, f"the {type(error).__name__} ({told})"
        value = error.with_traceback(None)
    try:
        outcome = pickle.dumps(value)
    except Exception as error:
        failed, outcome = True, pickle.dumps(_unpicklable(what, error))
        stack = stack or "".join(TracebackException.from_exception(error).format())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever the function has made of them
            stream.flush()
    return pickle.dumps((failed, outcome, what, stack))
