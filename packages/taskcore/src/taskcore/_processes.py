"""Worker processes for plain functions that keep a processor busy.

Each worker process is driven by one thread of a `ThreadPool`, which waits for its
answer, so limits, cancellation and shutdown are those of threads. What is different: a
process can be stopped. A cancelled call kills its process, and the next call starts a
new one.

`concurrent.futures` has no such end: its pool is joined when the interpreter ends,
stuck or not, and one dead worker breaks the whole pool.
"""

from __future__ import annotations

import importlib
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from taskcore._call import name_of
from taskcore.errors import InvalidCallError, WorkerDiedError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext

_here = threading.local()


@cache
def _spawn() -> SpawnContext:
    # Not imported above: it would double the time of `import taskcore` (promise C4).
    context: SpawnContext = importlib.import_module("multiprocessing").get_context("spawn")
    return context


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
        self._name = name
        self._packed = packed
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._killed = False

    def run(self) -> Any:
        """Run the call in this thread's worker process; return or raise what it did.

        Raises:
            WorkerDiedError: The process ended without an answer.
        """
        with self._lock:
            if self._killed:
                raise WorkerDiedError(f"the process of task '{self._name}' was not started")
            worker: _Worker | None = getattr(_here, "worker", None)
            if worker is None or not worker.process.is_alive():
                _here.worker = worker = _Worker()
            self._worker = worker
        try:
            succeeded, value, stack = worker.ask(self._packed)
        except (EOFError, OSError):
            worker.process.join()
            raise WorkerDiedError(
                f"the worker process of task '{self._name}' died (exit code "
                f"{worker.process.exitcode}) before it answered; the next task gets a new one"
            ) from None
        finally:
            with self._lock:
                self._worker = None
        if succeeded:
            return value
        value.add_note(f"In the worker process:\n{stack}")
        raise value

    def kill(self) -> None:
        """End the process that runs the call, or keep it from starting."""
        with self._lock:
            self._killed = True
            if self._worker is not None:
                self._worker.process.kill()


class _Worker:
    """A process that answers calls until its pipe closes: when its thread ends, or we do."""

    def __init__(self) -> None:
        self._pipe, theirs = _spawn().Pipe()
        self.process = _spawn().Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, packed: bytes) -> tuple[bool, Any, str]:
        self._pipe.send_bytes(packed)
        answer: tuple[bool, Any, str] = pickle.loads(self._pipe.recv_bytes())
        return answer


def _serve(pipe: Connection) -> None:
    # Ctrl-C goes to the whole group; what this process runs may be shielded.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            packed = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            func, args, kwargs = pickle.loads(packed)
            answer = pickle.dumps((True, func(*args, **kwargs), ""))
        except BaseException as error:
            answer = _pack_error(error)
        pipe.send_bytes(answer)


def _pack_error(error: BaseException) -> bytes:
    stack = "".join(traceback.format_exception(error))
    try:
        answer = pickle.dumps((False, error, stack))
        pickle.loads(answer)  # some exceptions can be pickled and not be made again
    except Exception:
        stand_in = WorkerDiedError(f"{type(error).__name__}: {error} (it cannot be pickled)")
        return pickle.dumps((False, stand_in, stack))
    return answer
