"""What servers and their operators do to a shutdown, with real processes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.servers.harness import KINDS, Server, wait_until

UVICORN = KINDS["uvicorn-asyncio"]
OLD_HYPERCORN = pytest.mark.skipif(
    sys.version_info >= (3, 12, 1),
    reason="it waits without limit: https://github.com/pgjones/hypercorn/issues/308",
)
SOAK = pytest.mark.soak  # for what another server shows as well


def start_tasks(server: Server) -> None:
    """Start an unshielded and a shielded task that end when the gate opens."""
    for key in ("plain", "shielded"):
        server.post(f"/schedule/wait_for_gate/{key}")
        server.wait_for("waiting", key)


def assert_shield_held(server: Server) -> None:
    """Assert that the shielded task completed, before any teardown, and was reported.

    Of several processes, one may drain while the task ends in another, before the drain there.
    """
    process = next(event.process for event in server.journal if event.key == "shielded")
    events = [(event.name, event.key) for event in server.journal if event.process == process]
    if server.kind.processes == 1:
        assert ("reported-succeeded", "shielded") in events
    teardowns = [at for at, (name, _) in enumerate(events) if name == "teardown"]
    assert len(teardowns) >= 3, "of the application, of its router, of its mount"
    assert events.index(("done", "shielded")) < min(teardowns)
    assert ("done", "teardown-shielded") in events[max(teardowns) :]


def press_twice(server: Server) -> None:
    """Press Ctrl-C twice while a request hangs: the second forces uvicorn to end."""
    client = server.post_and_hang("/hang", "request")
    server.send(signal.SIGINT)
    wait_until(lambda: "Waiting for connections" in server.output, "the first is heard")
    server.send(signal.SIGINT)
    # From Python 3.12.1 on uvicorn goes on waiting for open connections all the same, as
    # asyncio.Server.wait_closed() does; its --timeout-graceful-shutdown bounds that.
    client.close()


# -- tasks that do not stop -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "hypercorn",
        "granian",
        pytest.param("uvicorn-asyncio", marks=SOAK),
        pytest.param("uvicorn-uvloop", marks=SOAK),
        pytest.param("uvicorn-workers", marks=SOAK),
        pytest.param("gunicorn", marks=SOAK),
    ],
)
def test_stuck_tasks_do_not_hold_the_process(name: str, tmp_path: Path) -> None:
    """S1, S3: a stuck thread and a coroutine that swallows cancellation are abandoned."""
    if name == "gunicorn":
        pytest.importorskip("uvicorn_worker")
    keys = ["stuck", "stuck-shielded", "swallow", "swallow-shielded"]
    with Server(KINDS[name], tmp_path, shield_timeout=0.1) as server:
        server.wait_ready()
        for key in keys:
            func = "get_stuck" if key.startswith("stuck") else "swallow"
            server.post(f"/schedule/{func}/{key}")
            server.wait_for("waiting", key)

        assert server.end() == KINDS[name].exit_code

        assert sorted(server.keys("reported-abandoned")) == keys
        assert "app" in server.keys("teardown")
        assert "never retrieved" not in server.output
        assert "was destroyed" not in server.output


# -- requests that do not end ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("uvicorn-asyncio", "--timeout-graceful-shutdown=1"),
        pytest.param("hypercorn", "--graceful-timeout=1", marks=OLD_HYPERCORN),
        pytest.param("uvicorn-uvloop", "--timeout-graceful-shutdown=1", marks=SOAK),
        pytest.param("uvicorn-workers", "--timeout-graceful-shutdown=1", marks=SOAK),
    ],
)
def test_server_cuts_requests_that_hang(name: str, option: str, tmp_path: Path) -> None:
    """S5: where the server cuts them, requests without end do not cost a shielded task."""
    with Server(KINDS[name], tmp_path, options=[option], grace_period=0.0) as server:
        server.wait_ready()
        start_tasks(server)
        server.post_and_hang("/hang", "request")
        server.post_and_hang("/events", "events")

        server.send(signal.SIGTERM)
        server.wait_for("cancelled", "plain")
        server.gate.touch()

        assert server.wait() == KINDS[name].exit_code
        assert_shield_held(server)
        assert server.keys("reported-cancelled") == ["plain"]
        assert {"now-shielded-request", "now-shielded-events"} <= set(server.keys("done"))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("presses", [2, pytest.param(3, marks=SOAK)])
def test_ctrl_c_again_while_a_request_hangs(loop: str, presses: int, tmp_path: Path) -> None:
    """S1, S2: the second Ctrl-C ends the request and no shielded task; a third, the process.

    The third meets Python's own handler, since the server's is gone by then: it comes out of
    the loop as `KeyboardInterrupt`, and nothing can be shielded from that.
    """
    with Server(KINDS[f"uvicorn-{loop}"], tmp_path, grace_period=0.0) as server:
        server.wait_ready()
        start_tasks(server)
        press_twice(server)
        server.wait_for("cancelled", "plain")  # by the drain in the clean-up of the loop
        if presses == 3:
            server.send(signal.SIGINT)
            server.wait()
            return
        server.gate.touch()
        server.wait()
        assert_shield_held(server)


def test_forced_exit_ends_at_the_shield_deadline(tmp_path: Path) -> None:
    """S1, S2, S3: after a second Ctrl-C a shielded task has its time, and all are reported."""
    with Server(UVICORN, tmp_path, grace_period=0.0, shield_timeout=0.2) as server:
        server.wait_ready()
        start_tasks(server)
        press_twice(server)

        server.wait()
        assert server.keys("cancelled") == ["plain", "shielded"]
        assert sorted(server.keys("reported-cancelled")) == ["plain", "shielded"]


@pytest.mark.parametrize(
    "name",
    [
        "uvicorn-asyncio",
        pytest.param("uvicorn-uvloop", marks=SOAK),
        # Not with --workers: uvicorn's parent passes a Ctrl-C on, so one may count as two.
        pytest.param("hypercorn", marks=SOAK),
        pytest.param("granian", marks=SOAK),
    ],
)
def test_ctrl_c_again_while_the_drain_runs(name: str, tmp_path: Path) -> None:
    """S2: a second and a third Ctrl-C during the drain change nothing."""
    with Server(KINDS[name], tmp_path, grace_period=0.0) as server:
        server.wait_ready()
        start_tasks(server)

        server.send(signal.SIGINT)
        server.wait_for("cancelled", "plain")
        server.send(signal.SIGINT)
        server.send(signal.SIGINT)
        server.gate.touch()

        assert server.wait() == 0
        assert_shield_held(server)
        assert server.keys("reported-cancelled") == ["plain"]


# -- start and restart ----------------------------------------------------------------------


def test_reload_drains_the_old_process(tmp_path: Path) -> None:
    """S4, S5: uvicorn --reload starts the new process when the old one has drained."""
    watched = tmp_path / "watched"
    watched.mkdir()
    source = watched / "changed.py"

    def change_is_seen() -> bool:
        source.touch()
        return "Reloading" in server.output

    options = ["--reload", f"--reload-dir={watched}"]
    with Server(UVICORN, tmp_path, options=options, grace_period=0.0) as server:
        server.wait_ready()
        start_tasks(server)

        wait_until(change_is_seen, "it reloads")
        server.wait_for("cancelled", "plain")
        assert len(server.keys("startup")) == 1
        server.gate.touch()
        wait_until(lambda: len(server.keys("startup")) == 2, "it has started again")

        assert_shield_held(server)
        assert server.keys("reported-cancelled") == ["plain"]
        assert server.end() == 0
        assert server.keys("teardown") == ["router", "mounted", "app"] * 2


def test_start_up_failure_cleans_up(tmp_path: Path) -> None:
    """S4: a task of a start-up that fails ends first, and the server tells of the failure."""
    with Server(UVICORN, tmp_path, environment={"FAIL_START": "1"}) as server:
        assert server.wait() == 3
        events = [event.key for event in server.journal if event.name in ("done", "teardown")]
        assert sorted(events) == sorted(
            ["start-up-shielded", "failed-start-up-shielded", "mounted", "app", "teardown-shielded"]
        )
        assert "no database" in server.output
        assert "never retrieved" not in server.output


def test_lifespan_off_is_told(tmp_path: Path) -> None:
    """I7: without a lifespan nothing would drain, so `Tasks` says so, and nothing is accepted."""
    with Server(UVICORN, tmp_path, options=["--lifespan=off"]) as server:
        wait_until(server.listens, "it listens")
        assert server.post("/async/order?seconds=0") == 500
        wait_until(lambda: "leave out lifespan='off'" in server.output, "it logs the error")
        assert server.end() == -signal.SIGTERM
        assert server.journal == []
