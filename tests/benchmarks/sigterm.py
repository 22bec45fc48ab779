"""What a deploy does to background tasks: ours, fastapi-tasks 0.1.0, `BackgroundTasks`.

Run as `python -m tests.benchmarks.sigterm`; prints the Markdown table that the
documents show. Each round serves one application on uvicorn, sends requests, and then
SIGTERM. Twice: with uvicorn's defaults, and with the limit that is needed wherever a
client may keep a stream open, as uvicorn would otherwise wait for it for ever.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.environments import FASTAPI_TASKS, PEERS, make, variables
from tests.benchmarks.tables import markdown_table
from tests.servers.harness import Kind, Server, Traffic

ROUNDS = 5
ANSWERS = 40  # after which SIGTERM is sent
SECONDS = 2.0  # that a task takes at the most

UVICORN = Kind("uvicorn tests.benchmarks.sigterm_app:app --host 127.0.0.1 --port {port}")
LIMIT = "--timeout-graceful-shutdown=1"


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run tasks.

    Attributes:
        name: What the table calls it.
        path: The endpoint that uses it.
        ours: Whether our package is found before the one from PyPI.
        shield: Whether tasks are shielded.
    """

    name: str
    path: str = "/tasks"
    ours: bool = True
    shield: bool = False


ALL = (
    Peer("Starlette `BackgroundTasks`", path="/background"),
    Peer("fastapi-tasks 0.1.0 (PyPI)", ours=False),
    Peer("fastapi-tasks 0.1.0 (PyPI), `shield=True`", ours=False, shield=True),
    Peer("this project"),
    Peer("this project, `shield=True`", shield=True),
)


def measure(peer: Peer, options: list[str], python: str, seed: int) -> Counter[str]:
    """Run one round; return the numbers of tasks, and the milliseconds until the end."""
    environment = variables() | {"SHIELD": str(peer.shield)}
    if peer.ours:
        environment["PYTHONPATH"] = f"{FASTAPI_TASKS}{os.pathsep}{environment['PYTHONPATH']}"
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(
            UVICORN, Path(folder), options=options, environment=environment, python=python
        ) as server,
    ):
        server.wait_ready()
        traffic = Traffic(server, seed, clients=20, paths=[peer.path], seconds=SECONDS)
        traffic.wait_for_answers(ANSWERS)
        began = time.monotonic()
        server.end(signal.SIGTERM)
        took = time.monotonic() - began
        traffic.join()
        events = [event.name for event in server.journal]
    torn_down = events.index("teardown")
    figures = Counter(events)
    return Counter(
        accepted=figures["accepted"],
        completed=figures["done"],
        lost=figures["accepted"] - figures["done"],
        late=events[torn_down:].count("done"),
        milliseconds=round(took * 1000),
    )


def main() -> None:
    """Print the table."""
    python = make("peers", PEERS)
    head = ["accepted", "completed", "lost", "after teardown", "exit"]
    for title, options in {"uvicorn's defaults": [], f"uvicorn {LIMIT}": [LIMIT]}.items():
        rows = [[title, *head]]
        for peer in ALL:
            rounds = [measure(peer, options, python, seed) for seed in range(ROUNDS)]
            total = sum(rounds, Counter[str]())
            seconds = statistics.median(figures["milliseconds"] for figures in rounds) / 1000
            counts = [str(total[key]) for key in ("accepted", "completed", "lost", "late")]
            rows.append([peer.name, *counts, f"{seconds:.1f} s"])
        print(markdown_table(rows), end="\n\n")


if __name__ == "__main__":
    main()
