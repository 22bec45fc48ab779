"""Real server processes, traffic for them, and the journal that their application leaves."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
APP = "tests.servers.app:app"
# Seconds after which something counts as hung; nothing here takes a tenth of it.
HUNG = 30.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A server, and what is known of it.

    Attributes:
        command: What to run after `python -m`; `{port}` is filled in.
        exit_code: What it exits with on SIGTERM.
        processes: How many processes serve.
        needs: The module without which it cannot run.
    """

    command: str
    exit_code: int = 0
    processes: int = 1
    needs: str = "uvicorn"


_UVICORN = f"uvicorn {APP} --host 127.0.0.1 --port {{port}} --no-access-log"
KINDS = {
    "uvicorn-asyncio": Kind(f"{_UVICORN} --loop asyncio", -signal.SIGTERM),
    "uvicorn-uvloop": Kind(f"{_UVICORN} --loop uvloop", -signal.SIGTERM),
    "uvicorn-workers": Kind(f"{_UVICORN} --workers 2", processes=2),
    "hypercorn": Kind(f"hypercorn {APP} --bind 127.0.0.1:{{port}}", needs="hypercorn"),
    "granian": Kind(
        f"granian {APP} --interface asgi --host 127.0.0.1 --port {{port}}", needs="granian"
    ),
    "gunicorn": Kind(
        f"gunicorn {APP} --bind 127.0.0.1:{{port}} --no-control-socket "
        "--worker-class uvicorn_worker.UvicornWorker",
        needs="uvicorn_worker",
    ),
}


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something in another process, which cannot tell us of it."""
    deadline = time.monotonic() + HUNG
    while not condition():
        assert time.monotonic() < deadline, f"not within {HUNG} s: {what}"
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the journal."""

    process: int
    name: str
    key: str


class Server:
    """A server process in a session of its own, from its start to its end.

    Args:
        kind: Which server.
        folder: Where its journal and its output go.
        options: More arguments for its command line.
        grace_period: That of the application.
        shield_timeout: That of the application.
        environment: More environment variables.
        python: The interpreter that runs it.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path,
        *,
        options: Sequence[str] = (),
        grace_period: float = 0.1,
        shield_timeout: float = 20.0,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.kind = kind
        self._journal = folder / "journal"
        self._journal.touch()
        self._output = folder / "output"
        self.gate = folder / "gate"
        self._environment = os.environ | {
            "JOURNAL": str(self._journal),
            "GATE": str(self.gate),
            "GRACE_PERIOD": str(grace_period),
            "SHIELD_TIMEOUT": str(shield_timeout),
            **(environment or {}),
        }
        self._command = [python, "-m", *kind.command.format(port=self.port).split()]
        self._command += options
        self._clients: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Self:
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.processes():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for client in self._clients:
            client.close()
        if error is not None:
            error.add_note(f"output of {' '.join(self._command)}:\n{self.output}")

    # -- what it says -------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text()

    @property
    def journal(self) -> list[Event]:
        """What its application has written down."""
        lines = self._journal.read_text().splitlines()
        return [Event(int(process), name, key) for process, name, key in map(_fields, lines)]

    def keys(self, name: str) -> list[str]:
        """The keys of the events with this name, in order."""
        return [event.key for event in self.journal if event.name == name]

    def wait_for(self, name: str, key: str) -> None:
        """Wait for an event of the journal."""
        wait_until(lambda: key in self.keys(name), f"{name} {key} in the journal")

    def wait_ready(self) -> None:
        """Wait until every process of it serves."""
        wait_until(
            lambda: len(self.keys("startup")) >= self.kind.processes or self._ended(),
            f"{self.kind.processes} processes have started",
        )
        wait_until(lambda: self.listens() or self._ended(), "it listens")
        assert not self._ended(), "it ended at once"

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def listens(self) -> bool:
        """Whether it takes connections."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    # -- what is done to it -------------------------------------------------------------------

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection at its first request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=HUNG)

    def post(self, path: str) -> int:
        """Send one request; return the status of the response."""
        connection = self.connect()
        try:
            connection.request("POST", path)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def post_and_hang(self, path: str, key: str) -> http.client.HTTPConnection:
        """Send a request that gets no complete response, and wait until it is being served."""
        connection = self.connect()
        connection.request("POST", f"{path}/{key}")
        self._clients.append(connection)
        self.wait_for("hanging", key)
        return connection

    def send(self, number: signal.Signals) -> None:
        """Send a signal, to every process if it comes from the keyboard."""
        if number is signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of every process; return the exit code of the first."""
        code = self.process.wait(HUNG)
        wait_until(lambda: not self.processes(), "no process of the session is left")
        return code

    def processes(self) -> list[int]:
        """The processes of its session that have not ended."""
        self.process.poll()
        found: list[int] = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # pid (name) state parent group session ...; the name may have spaces.
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):  # it has just ended
                continue
            if int(session) == self.process.pid and state != "Z":
                found.append(int(stat.parent.name))
        return found


def _fields(line: str) -> tuple[str, str, str]:
    process, name, key = line.split(" ")
    return process, name, key


class Traffic:
    """Several clients that send requests until the server goes away.

    Args:
        server: Where to.
        seed: Decides about the path of each request, and how long its tasks take.
        clients: How many; every second one keeps its connection.
        paths: Where requests go; the key of each is added.
        seconds: How long a task takes at the most.
    """

    def __init__(
        self,
        server: Server,
        seed: int,
        *,
        clients: int = 4,
        paths: Sequence[str] = ("/async", "/mounted/thread", "/stream"),
        seconds: float = 0.2,
    ) -> None:
        self._server = server
        self._paths = paths
        self._seconds = seconds
        self._threads = [
            threading.Thread(target=self._run, args=(f"{seed}-{number}", number % 2 == 0))
            for number in range(clients)
        ]
        self.answered: list[str] = []
        self.refused: list[str] = []
        self.statuses: set[int] = set()
        for thread in self._threads:
            thread.start()

    def _run(self, name: str, keep_alive: bool) -> None:
        chance = random.Random(name)
        connection = self._server.connect()
        for number in range(100_000):
            key = f"{name}-{number}"
            path = (
                f"{chance.choice(self._paths)}/{key}?seconds={chance.uniform(0, self._seconds):.3f}"
            )
            try:
                connection.request("POST", path)
                response = connection.getresponse()
                body = response.read().decode()
                self.statuses.add(response.status)
                if not keep_alive:
                    connection.close()
            except ConnectionRefusedError:
                break
            except (OSError, http.client.HTTPException):
                connection.close()  # in the middle of something; the next one tries again
                if self._server.process.poll() is not None:
                    break
                continue
            (self.answered if body.strip('"') == key else self.refused).append(key)
        connection.close()

    def wait_for_answers(self, number: int) -> None:
        """Wait until the clients have got that many."""
        wait_until(lambda: len(self.answered) >= number, f"{number} answers")

    def join(self) -> None:
        """Wait until every client has noticed that the server is gone."""
        for thread in self._threads:
            thread.join(HUNG)
            assert not thread.is_alive(), "a client hangs"
