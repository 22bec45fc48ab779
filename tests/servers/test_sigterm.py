"""SIGTERM in the middle of traffic, on every server."""

from __future__ import annotations

import importlib.util
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.servers.harness import KINDS, Event, Server, Traffic

# What asyncio, Python and the servers print when something was left behind.
COMPLAINT = re.compile(r"Traceback|Warning|never (retrieved|awaited)|was destroyed|unclosed|killed")
# Of a connection that comes while the server closes; it concerns no task, and asyncio alone
# can mend it: https://github.com/python/cpython/issues/109564
CLOSE_RACE = re.compile(
    r"^Exception ignored .*_SelectorTransport\.__del__.*\nTraceback .*\n(?: +.*\n)+"
    r"TypeError: 'NoneType' object is not iterable$",
    re.MULTILINE,
)


def complaint(output: str) -> str | None:
    """What there is to complain of in the output of a server, with all that follows."""
    found = COMPLAINT.search(CLOSE_RACE.sub("", output))
    return found and found.string[found.start() :]


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        *((name, 2 // kind.processes) for name, kind in KINDS.items()),
        *(pytest.param(name, 20, marks=pytest.mark.soak) for name in KINDS),
    ],
)
def test_sigterm_in_the_middle_of_traffic(name: str, rounds: int, tmp_path: Path) -> None:
    """S4, S5: no shielded task is lost, and none ends after any teardown."""
    if not importlib.util.find_spec(KINDS[name].needs):
        pytest.skip(f"{KINDS[name].needs} is not installed")
    first = int(os.environ.get("SEED", "0")) or random.randrange(1, 2**32)
    with ThreadPoolExecutor(2) as pool:
        seeds = range(first, first + rounds)
        folders = (tmp_path / str(seed) for seed in seeds)
        for figures in pool.map(partial(run_round, name), seeds, folders):
            print(name, figures)


def run_round(name: str, seed: int, folder: Path) -> str:
    """Serve, send SIGTERM at a moment that the seed decides, and look at what is left."""
    kind = KINDS[name]
    answers = random.Random(seed).randint(1, 60)
    print(f"SEED={seed}: SIGTERM to {name} after {answers} answers\n", end="")
    folder.mkdir()
    with Server(kind, folder) as server:
        server.wait_ready()
        traffic = Traffic(server, seed)
        traffic.wait_for_answers(answers)
        exit_code = server.end()
        traffic.join()
        figures = check(server.journal, traffic.answered)
        assert exit_code == kind.exit_code
        assert not complaint(server.output)
    return f"SEED={seed}: {figures}"


def check(journal: list[Event], answered: list[str]) -> str:
    """Check the journal of all processes, and of each; return the figures."""
    accepted = {event.key for event in journal if event.name == "accepted"}
    assert {f"now-shielded-{key}" for key in answered} <= accepted
    figures = [
        check_process([event for event in journal if event.process == process])
        for process in sorted({event.process for event in journal})
    ]
    return f"{len(answered)} answers; {'; '.join(figures)}"


def check_process(journal: list[Event]) -> str:
    """Check what one process has written: every task ends, and before any teardown."""
    accepted, done, cancelled, teardown = (
        [event.key for event in journal if event.name == name]
        for name in ("accepted", "done", "reported-cancelled", "teardown")
    )
    reported = [event.key for event in journal if event.name.startswith("reported-")]
    shielded = {key for key in accepted if "shielded" in key}

    assert len(accepted) == len(set(accepted)), "the test gives each task a key of its own"
    assert shielded - set(done) == set()
    assert sorted(done + cancelled) == sorted(accepted), "each once, done or cancelled"
    assert len(reported) == len(set(reported))

    assert sorted(teardown) == ["app", "mounted", "router"]
    first = next(at for at, event in enumerate(journal) if event.name == "teardown")
    late = {event.key for event in journal[first:] if event.name in ("done", "accepted")}
    assert late == {"teardown-shielded"}, "only the task that the teardown itself schedules"
    return (
        f"{len(accepted)} tasks accepted, {len(shielded)} of them shielded: "
        f"{len(shielded & set(done))} completed, {len(shielded & set(reported))} in the drain; "
        f"{len(cancelled)} unshielded cancelled"
    )
