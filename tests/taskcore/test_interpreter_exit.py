"""Real processes whose tasks do not stop: each drains in time, says why, and exits."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest

from tests.conftest import LOOPS

# Seconds in which a process must have ended; the drain of each takes at most two.
EXIT_TIMEOUT = 15.0

PROGRAM = textwrap.dedent(
    """
    import asyncio, contextlib, logging, sys, time
    from taskcore import TaskScope

    async def swallow():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def swallow_everything():
        while True:
            try:
                await asyncio.sleep(3600)
            except BaseException:
                pass

    async def swallow_every_turn():
        while True:
            try:
                await asyncio.sleep(0)
            except BaseException:
                pass

    async def endless_finally():
        try:
            await asyncio.sleep(3600)
        finally:
            await swallow_everything()

    async def children():
        async with asyncio.TaskGroup() as group:
            group.create_task(swallow_everything())

    async def scope():
        async with TaskScope(grace_period=60, shield_timeout=None) as scope:
            scope.schedule(swallow_everything)
            scope.task(shield=True).schedule(children)
            await asyncio.sleep(3600)

    begun = []  # functions that threads have begun

    def thread():
        begun.append(1)
        time.sleep(3600)

    async def fail():
        raise LookupError

    async def handler(task, error):
        await swallow_everything()

    def handler_in_thread(task, error):
        begun.append(1)
        time.sleep(3600)

    async def on_drain_hangs(report):
        await asyncio.sleep(3600)

    async def on_drain_swallows(report):
        await swallow_everything()

    async def main(name):
        asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine is no news
        on_drain = globals()[name] if name.startswith("on_drain") else None
        options = {"grace_period": 0, "shield_timeout": 0, "on_drain": on_drain}
        async with TaskScope(**options) as scope:
            for shield in (False, True):
                if name.startswith("handler"):
                    task = scope.task(shield=shield, on_error=globals()[name], name=name)
                    task.schedule(fail)
                elif on_drain is None:
                    scope.task(shield=shield, name=name).schedule(globals()[name])
            await asyncio.sleep(0.05)
            while "thread" in name and len(begun) < 2:
                await asyncio.sleep(0.01)
            await scope.drain()

    logging.basicConfig(level="INFO", format="%(name)s %(levelname)s %(message)s")
    loop_factory = None
    if sys.argv[2] == "uvloop":
        import uvloop
        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main(sys.argv[1]))
    print("end", flush=True)
    """
)


@dataclass
class Ended:
    """What a process wrote until it ended, and whether it ended by itself."""

    code: int | None
    stdout: str
    stderr: str


def run(name: str, loop: str) -> Ended:
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PROGRAM, name, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            stdout, stderr = process.communicate(timeout=EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            return Ended(None, stdout, stderr)
    return Ended(process.returncode, stdout, stderr)


TASKS = {
    "swallow": "in swallow",
    "swallow_everything": "in swallow_everything",
    "swallow_every_turn": "in swallow_every_turn",
    "endless_finally": "in endless_finally(?s:.*)in swallow_everything",
    "children": "in children",
    "scope": "in scope",
    "thread": "in thread",
    "handler": "in handler(?s:.*)in swallow_everything",
    "handler_in_thread": "in handler_in_thread",
}
EVERYWHERE = ("swallow_everything", "thread")  # the others on asyncio alone, to save time
CASES = [
    (name, loop)
    for name in TASKS
    for loop in LOOPS
    if loop == "asyncio" or (loop == "uvloop" and name in EVERYWHERE)
]


@pytest.mark.parametrize(("name", "loop"), CASES)
def test_process_with_a_stuck_task_exits(name: str, loop: str) -> None:
    """S1: whatever a task does, the process drains and exits; the log says where it hangs."""
    ended = run(name, loop)
    assert (ended.code, ended.stdout) == (0, "end\n"), ended.stderr
    records = re.split(r"^(?=\w+ [A-Z]+ )", ended.stderr, flags=re.MULTILINE)[1:]
    assert "".join(records) == ended.stderr
    *abandoned, summary = records
    place = re.compile(
        rf"taskcore ERROR abandoned task '{name}' \(id \d+, function \w+\) after \d+\.\d\d s: it "
        rf"was cancelled and did not stop; it hangs at\n(?s:.*){TASKS[name]}\n"
    )
    assert len(abandoned) == 2
    assert [record for record in abandoned if not place.match(record)] == []
    assert re.match(
        r"taskcore INFO drain of scope '[\w-]+' ended after \d\.\d\d s: "
        r"0 succeeded, 0 failed, 0 cancelled, 2 abandoned, 0 skipped\n",
        summary,
    )


@pytest.mark.parametrize("name", ["on_drain_hangs", "on_drain_swallows"])
def test_process_with_a_stuck_on_drain_exits(name: str) -> None:
    """S1: an `on_drain` that hangs is logged, and the process exits."""
    ended = run(name, "asyncio")
    assert (ended.code, ended.stdout) == (0, "end\n"), ended.stderr
    assert re.match(rf"taskcore ERROR on_drain <function {name} at \w+> of scope", ended.stderr)
    assert "asyncio ERROR" not in ended.stderr
    assert "never awaited" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
