"""The script docs/examples/download.py, which gets its files from a server of this test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.servers.harness import HUNG, ROOT, wait_until

FILES = [f"file-{number}.txt" for number in range(300)]
LATE = [f"late-{number}.txt" for number in range(100)]
"""Names of files that the server never sends."""


class Files(ThreadingHTTPServer):
    """Serves files.

    Attributes:
        held: How many requests for late files wait.
        given_up: How many of these clients have gone away.
    """

    held = 0
    given_up = 0
    lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class Request(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Files)
        name = self.path[1:]
        if name in LATE:
            with self.server.lock:
                self.server.held += 1
            self.connection.recv(1)  # until the client goes away
            with self.server.lock:
                self.server.given_up += 1
        elif name in FILES:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content(name))
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def content(name: str) -> bytes:
    """What is in a file."""
    return f"this is {name}\n".encode() * 1000


@pytest.fixture
def files() -> Generator[Files]:
    """A server, and its thread."""
    with Files(("127.0.0.1", 0), Request) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def downloading(url: str, folder: Path, names: list[str]) -> Generator[subprocess.Popen[str]]:
    """The script at work."""
    command = [sys.executable, "docs/examples/download.py", url, str(folder)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write("\n".join(names))
            process.stdin.close()
            process.stdin = None  # so that `communicate` leaves it alone
            yield process
        finally:
            process.kill()


def test_all_files(files: Files, tmp_path: Path) -> None:
    """L1: hundreds of files come through a limit of sixteen, each as a whole."""
    folder = tmp_path / "copies"
    with downloading(files.url, folder, FILES) as process:
        output, _ = process.communicate(timeout=HUNG)
    assert process.returncode == 0, output
    assert "100%" in output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: content(name) for name in FILES
    }


def test_a_file_that_is_not_there(files: Files, tmp_path: Path) -> None:
    """I1: one that fails is named, and harms no other; the exit code tells."""
    with downloading(files.url, tmp_path, ["nothing.txt", *FILES[:20]]) as process:
        output, _ = process.communicate(timeout=HUNG)
    assert process.returncode == 1
    assert "nothing.txt failed" in output
    assert "404" in output
    assert "Traceback" not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES[:20])


def test_ctrl_c_keeps_what_has_arrived(files: Files, tmp_path: Path) -> None:
    """S2: files that were to be written are, after Ctrl-C; downloads are cut off."""
    arrived = FILES[:8]
    parts = [tmp_path / f"{name}.part" for name in arrived]
    for part in parts:
        os.mkfifo(part)  # which nobody can begin to write before somebody reads
    with downloading(files.url, tmp_path, [*arrived, *LATE]) as process:
        # Sixteen run at once, so the first eight have ended when sixteen others wait.
        wait_until(lambda: files.held == 16, "sixteen downloads wait")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: files.given_up == 16, "the downloads have been cut off")
        pipes = [os.open(part, os.O_RDONLY | os.O_NONBLOCK) for part in parts]
        try:
            output, _ = process.communicate(timeout=HUNG)
            written = [os.read(pipe, 100_000) for pipe in pipes]
        finally:
            for pipe in pipes:
                os.close(pipe)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert written == [content(name) for name in arrived]
    assert sorted(path.name for path in tmp_path.iterdir()) == arrived
