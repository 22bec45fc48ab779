"""Run the examples of the READMEs as a newcomer would. Needs none of this repository's code.

Run by `scripts/smoke`, in an environment that holds the built wheels: `smoke.py core README`
where the core is alone, `smoke.py adapter README` where the adapter and uvicorn are, too.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REQUEST = re.compile(r"curl -X POST 'http://127\.0\.0\.1:8000(.*?)'")
PATIENCE = 30.0  # seconds


def run(source: str) -> None:
    """Run a block by itself, with top-level `await` allowed."""
    code = compile(source, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, object] = {"__name__": "example"}
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)


def core(readme: str) -> None:
    """Every block runs, and nothing but the core is there for it."""
    blocks = BLOCK.findall(readme)
    assert blocks
    for block in blocks:
        run(block)


def adapter(readme: str) -> None:
    """The application is served, answers, and finishes its charge when it is stopped at once."""
    Path("orders.py").write_text(next(block for block in BLOCK.findall(readme) if "app =" in block))
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    found = REQUEST.search(readme)
    assert found, "the README sends no request"
    request = urllib.request.Request(f"http://127.0.0.1:{port}{found[1]}", method="POST")
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "orders:app", "--port", str(port)],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            print(answer(request, server))
            server.send_signal(signal.SIGTERM)
            output, _ = server.communicate(timeout=PATIENCE)
        finally:
            server.kill()
    print(output)
    assert "charged 7" in output
    assert "sent to ada@example.org" in output


def answer(request: urllib.request.Request, server: subprocess.Popen[str]) -> str:
    """What the server answers, once it does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return str(response.read().decode())
        except OSError:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)


if __name__ == "__main__":
    {"core": core, "adapter": adapter}[sys.argv[1]](Path(sys.argv[2]).read_text(encoding="utf-8"))
