"""What tests let worker processes run: they import it from here."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from taskcore import check_cancelled, current_scope, current_task
from taskcore.errors import NoCurrentScopeError, NoCurrentTaskError

setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="unset")


def echo(*args: Any, **kwargs: Any) -> Any:
    """Return what it got."""
    return args, kwargs


def hold(folder: str, name: str) -> int:
    """Tell the test (see `Gate`) that it has begun, wait to be released; return the process id."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gate:
        gate.bind(f"{folder}/{name}")
        gate.sendto(str(os.getpid()).encode(), f"{folder}/test")
        gate.recv(1)
    return os.getpid()


def touch(path: str) -> None:
    """Leave a file behind."""
    Path(path).touch()


def say(text: str) -> None:
    """Print, and leave the flushing to others."""
    sys.stdout.write(text)


# -- ends --------------------------------------------------------------------------------------


def exit_at_once(code: int) -> None:
    """End the process without an answer."""
    os._exit(code)


def kill_itself() -> None:
    """End as by the out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: str) -> str:
    """End the process at the first call, return at the second."""
    if not os.path.exists(path):
        touch(path)
        os._exit(1)
    return "done"


def close_everything() -> None:
    """Close every file of the process, as who makes a daemon of it would, and stay."""
    os.closerange(3, 100)
    time.sleep(3600)


def touch_at_exit(path: str) -> int:
    """Leave a file behind when the process ends by itself; return the process id."""
    atexit.register(touch, path)
    return os.getpid()


def never_end() -> int:
    """Keep the process from ending by itself; return its id."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return os.getpid()


# -- errors ------------------------------------------------------------------------------------


def fail() -> None:
    """Raise an error that has a cause and a note."""
    try:
        int("no number")
    except ValueError as cause:
        error = LookupError("not found")
        error.add_note("a note of its own")
        raise error from cause


def fail_with(kind: type[BaseException]) -> NoReturn:
    """Raise an error of that kind."""
    raise kind("text")


class HoldsLock(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Forgetful(Exception):
    """Can be pickled, and not be made again: it keeps nothing of what it was made with."""

    def __init__(self, text: str) -> None:
        super().__init__()


class BecomesText(Exception):
    """Is a string when it is unpickled."""

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("text",)


class Sealed(Exception):
    """Lets nothing be set, notes included."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(name)


@dataclass(frozen=True)
class Frozen(Exception):
    """Pickle sets what it lets nobody set."""

    text: str


class Silent(Exception):
    """Cannot be pickled, nor shown."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("silent")

    def __str__(self) -> NoReturn:
        raise TypeError("silent")


def fail_with_it(value: object) -> NoReturn:
    """Raise, and hold the argument in the frame of the traceback."""
    raise LookupError(type(value).__name__)


# -- what cannot be copied ---------------------------------------------------------------------


def return_lock() -> Any:
    """Return what pickle refuses."""
    return threading.Lock()


class OnlyThere:
    """Can be pickled by everyone, and unpickled by the process that made it."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return only_in, (os.getpid(),)


def only_in(pid: int) -> int:
    """Fail in any other process."""
    if pid != os.getpid():
        raise RuntimeError("not here")
    return pid


class TouchesAtEnd:
    """Leaves a file behind when its copy in a worker is forgotten."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.home = os.getpid()

    def __del__(self) -> None:
        if self.home != os.getpid():
            touch(self.path)


# -- what a worker has -------------------------------------------------------------------------


def context() -> list[str]:
    """What finds no task in a worker: the context, `check_cancelled` and its like."""
    check_cancelled()
    found = [setting.get()]
    try:
        current_task()
    except NoCurrentTaskError as error:
        found.append(str(error))
    try:
        current_scope()
    except NoCurrentScopeError:
        found.append("no scope")
    return found


def program_signals() -> str:
    """Which signals a program finds that is started here: those ignored, those blocked."""
    code = (
        "import signal; numbers = signal.SIGTERM, signal.SIGINT; "
        "print([signal.getsignal(n) is signal.SIG_IGN for n in numbers],"
        " signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def start_child() -> None:
    """Start a process of multiprocessing, which it refuses in its daemons."""
    multiprocessing.get_context("spawn").Process(target=echo).start()


def scope_in_daemon(answers: Any) -> None:
    """Run a scope in this process, and tell which process its task ran in."""

    async def main() -> int:
        from taskcore import TaskScope

        async with TaskScope(processes=1) as scope:
            return await scope.task(run_in="process").schedule(os.getpid)

    answers.send((multiprocessing.current_process().daemon, os.getpid(), asyncio.run(main())))
