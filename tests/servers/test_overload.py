"""Ten times the traffic that a server can serve: its memory, its answers, its tasks."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.servers.harness import HUNG, KINDS, Kind, Server, Traffic, wait_until
from tests.servers.test_sigterm import complaint

LIMIT, BACKLOG, OVERLOAD = 100, 1000, 10
CLIENTS = 8
LATE = 4  # of the last tasks with leave may end, and give back their slots, a moment later
WARM = 1500  # requests, after which the backlog is full and every thread has begun
MOST_GROWTH = 2 * 2**20  # bytes of memory after that; 100,000 requests took a tenth of it
SOAK = 100_000

APP = "tests.servers.overload_app:app"
FIGURES = {"LIMIT": str(LIMIT), "BACKLOG": str(BACKLOG), "OVERLOAD": str(OVERLOAD)}


def memory(server: Server) -> int:
    """The resident memory of the server's process, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize(
    ("path", "name", "requests"),
    [
        ("/coroutine", "uvicorn-asyncio", 2000),
        ("/thread", "uvicorn-uvloop", 2000),
        pytest.param("/coroutine", "uvicorn-asyncio", SOAK, marks=pytest.mark.soak),
        pytest.param("/coroutine", "uvicorn-uvloop", SOAK, marks=pytest.mark.soak),
        pytest.param("/thread", "uvicorn-asyncio", SOAK, marks=pytest.mark.soak),
        pytest.param("/thread", "uvicorn-uvloop", SOAK, marks=pytest.mark.soak),
    ],
)
def test_overload(path: str, name: str, requests: int, tmp_path: Path) -> None:
    """L1, S5: memory stays bounded, the rest gets 503, and what was accepted is completed."""
    kind = Kind(KINDS[name].command.replace("tests.servers.app:app", APP), KINDS[name].exit_code)
    with Server(kind, tmp_path, grace_period=HUNG, environment=FIGURES) as server:
        server.wait_ready()
        before, began = memory(server), time.monotonic()
        traffic = Traffic(server, seed=0, clients=CLIENTS, paths=[path])
        warm = memory_until(server, traffic, WARM)[-1]
        samples = memory_until(server, traffic, requests)
        seconds, growth = time.monotonic() - began, max(samples) - warm

        exit_code = server.end(signal.SIGTERM)
        traffic.join()
        assert exit_code == kind.exit_code
        assert not complaint(server.output)
        figures = check(server, traffic)
    print(
        f"{name} {path}: {figures}; {seconds:.1f} s; memory {before >> 20} MiB before, "
        f"{warm >> 20} MiB with a full backlog, {growth >> 10} KiB more at most, "
        f"{samples[-1] >> 20} MiB at the end"
    )
    assert growth < MOST_GROWTH


def memory_until(server: Server, traffic: Traffic, answers: int) -> list[int]:
    """Look at the server's memory until the clients have got that many answers."""
    samples: list[int] = []

    def enough() -> bool:
        samples.append(memory(server))
        return len(traffic.answered) + len(traffic.refused) >= target

    for target in range(0, answers + 1, 500):
        wait_until(enough, f"{target} answers")
    return samples


def check(server: Server, traffic: Traffic) -> str:
    """Check that the server was full, said so, and completed once what it took; the figures."""
    accepted, done = server.keys("accepted"), server.keys("done")
    requests = int(server.keys("requests")[0])
    names = [event.name for event in server.journal]
    served = names[: names.index("draining")].count("done")
    assert sorted(done) == sorted(accepted)
    assert len(set(accepted)) == len(accepted)
    reported = server.keys("reported-succeeded")
    assert set(done[served:]) <= set(reported) <= set(done)
    assert len(reported) == len(set(reported))

    assert traffic.statuses == {200, 503}
    assert set(traffic.answered) <= set(accepted)
    assert not set(traffic.refused) & set(accepted)

    assert requests // OVERLOAD - LATE <= served <= requests // OVERLOAD
    assert LIMIT + BACKLOG - LATE <= len(accepted) - served <= LIMIT + BACKLOG
    return (
        f"{requests} requests, {len(accepted)} accepted, {len(traffic.refused)} refused, "
        f"{served} completed before SIGTERM, {len(done) - served} in the drain"
    )
