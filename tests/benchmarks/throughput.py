"""HTTP throughput under real uvicorn, with a client in Python, and the server's CPU time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from typing import Any

from tests.benchmarks.environments import PEERS, ROOT, make, variables
from tests.benchmarks.measure import ratio, say
from tests.benchmarks.promises import REFERENCE
from tests.benchmarks.tables import Row, text_table

MODULE = "tests.benchmarks.throughput"
SERVED = (
    "no tasks",
    "add_tasks, not used",
    "one task",
    f"{REFERENCE}, one task",
    "Starlette BackgroundTasks, one",
)
CONNECTIONS = 8
REQUESTS = 250
"""Requests of one round on each connection."""
ROUNDS = 5
REQUEST = b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n"


def serve(name: str, port: int) -> None:
    """Be the server. `/cpu` answers with its CPU seconds so far."""
    import uvicorn

    from tests.benchmarks.apps import APPS

    app = APPS[name]()

    def cpu() -> float:
        return time.process_time()

    app.add_api_route("/cpu", cpu)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", loop="uvloop")


@contextlib.contextmanager
def server(python: str, name: str) -> Generator[int]:
    """Start a server, wait until it answers, and end it; gives its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", MODULE, name, str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=variables())
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: bytes) -> bytes:
    """One request on a connection that stays open."""
    writer.write(REQUEST % path)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    return await reader.readexactly(length)


async def load(port: int) -> tuple[float, float]:
    """Requests per second, and CPU seconds of the server per request."""
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(REQUESTS):
            await get(reader, writer, b"/")

    cpu = float(await get(*streams[0], b"/cpu"))
    began = time.perf_counter()
    await asyncio.gather(*(client(*stream) for stream in streams))
    seconds = time.perf_counter() - began
    cpu = float(await get(*streams[0], b"/cpu")) - cpu
    for _, writer in streams:
        writer.close()
    total = CONNECTIONS * REQUESTS
    return total / seconds, cpu / total


def measure(python: str) -> dict[str, Any]:
    """All servers are up, and get their load in turn."""
    environment = make("peers", PEERS, python)
    say("HTTP throughput")
    found: dict[str, dict[str, list[float]]] = {
        name: {"per_second": [], "cpu": []} for name in SERVED
    }
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(server(environment, name)) for name in SERVED}
        for port in ports.values():
            asyncio.run(load(port))
        for _ in range(ROUNDS):
            for name, port in ports.items():
                per_second, cpu = asyncio.run(load(port))
                found[name]["per_second"].append(per_second)
                found[name]["cpu"].append(cpu)
    return found


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """CPU time of the server per request, in requests without tasks."""
    base = result[SERVED[0]]["cpu"]
    return {name: ratio(found["cpu"], base) for name, found in result.items()}


def rows(result: dict[str, Any]) -> list[Row]:
    """A table: requests per second and CPU per request, the median of the rounds."""
    table: list[Row] = [("under uvicorn, on uvloop", "requests/s", "CPU us per request", "ratio")]
    for name, value in ratios(result).items():
        per_second = statistics.median(result[name]["per_second"])
        cpu = statistics.median(result[name]["cpu"])
        table.append((name, f"{per_second:,.0f}", f"{cpu * 1e6:.0f}", f"{value:.2f}"))
    return table


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(sys.argv[1], int(sys.argv[2]))
    else:
        print(text_table(rows(measure(sys.executable))))
