"""The adapter on a real server process: the order over sockets, and a SIGTERM in mid-traffic."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

ROOT = Path(__file__).parents[2]
LOOPS = ["asyncio", "uvloop"]


class Uvicorn:
    """A uvicorn process that serves `served.py`, and the lines that it has written."""

    def __init__(self, loop: str) -> None:
        command = [sys.executable, "-m", "uvicorn", "tests.fastapi_tasks.served:app"]
        options = ["--port", "0", "--loop", loop, "--no-access-log"]
        self._process = subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._address = re.findall(r"http://([\d.:]+)", self.wait_for("Uvicorn running on"))[0]

    def wait_for(self, text: str) -> str:
        """Read lines until one contains `text`, and return that one."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return line
        raise AssertionError(f"uvicorn ended without a line with {text!r}: {self.lines}")

    def get(self, path: str) -> None:
        """Make a request over a connection of its own."""
        connection = HTTPConnection(self._address)
        try:
            connection.request("GET", path)
            assert connection.getresponse().read() == b"null"
        finally:
            connection.close()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def release(self) -> None:
        """Send the line that the app waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def rest(self) -> list[str]:
        """Wait for the end and return the lines that were left."""
        assert self._process.stdout is not None
        rest = [line.rstrip() for line in self._process.stdout]
        self._process.wait()
        return rest

    def close(self) -> None:
        """End the process if it still runs."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def uvicorn(loop: str) -> Generator[Uvicorn]:
    pytest.importorskip(loop)
    server = Uvicorn(loop)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_order_over_sockets(loop: str) -> None:
    """T2, T3, T4: on a real server, tasks start at the moment that was chosen."""
    with uvicorn(loop) as server:
        server.get("/moments")
        server.wait_for("after_response")
        assert any(line.startswith(f"loop {loop}") for line in server.lines)
        server.release()
        server.terminate()
        rest = server.rest()
    assert server.lines[-4:] == ["now", "endpoint", "after_route", "after_response"]
    assert "teardown" in rest


@pytest.mark.parametrize("round_", [1, 2])
@pytest.mark.parametrize("loop", LOOPS)
def test_sigterm_in_mid_traffic(loop: str, round_: int) -> None:
    """S4: every shielded task of an answered request completes, and the teardown comes after."""
    answered: list[int] = []
    some = threading.Event()

    def keep_ordering(server: Uvicorn) -> None:
        order = 0
        try:
            while True:
                server.get(f"/orders/{order}")
                answered.append(order)
                order += 1
                if order == 20 * round_:
                    some.set()
        except OSError:  # the server does not listen any more
            pass

    with uvicorn(loop) as server:
        traffic = threading.Thread(target=keep_ordering, args=(server,))
        traffic.start()
        assert some.wait(30)
        server.terminate()
        server.wait_for("Waiting for application shutdown")
        assert not any(line.startswith("charged") for line in server.lines)
        server.release()
        rest = server.rest()
        traffic.join()
    charged = {line for line in rest[: rest.index("teardown")] if line.startswith("charged")}
    assert charged >= {f"charged {order}" for order in answered}
    assert not any(line.startswith("charged") for line in rest[rest.index("teardown") :])
