"""Prometheus, with the real client: what a scrape shows of scopes and their tasks."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import tenacity
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from taskcore import Task, TaskScope
from taskcore.prometheus import Prometheus


async def nothing() -> None:
    pass


async def fail() -> None:
    raise LookupError


async def swallow() -> None:
    """Ignores one cancellation, and is stuck for good."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(60)


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    pass


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    """Each sample that a scrape shows, by its name and labels as text."""
    text = generate_latest(registry).decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    samples = [line.rpartition(" ") for line in lines if "_created{" not in line]
    assert len({name for name, _, _ in samples}) == len(samples), "a sample is shown twice"
    return {name: float(value) for name, _, value in samples}


def scraped(registry: CollectorRegistry, prefix: str) -> dict[str, float]:
    """The samples whose name begins with `prefix`, and that are not zero."""
    return {
        name.removeprefix(prefix): value
        for name, value in scrape(registry).items()
        if name.startswith(prefix) and value
    }


@pytest.fixture
def registry(caplog: pytest.LogCaptureFixture) -> Iterator[CollectorRegistry]:
    """A registry of the test's own; no observer has failed by its end."""
    yield CollectorRegistry()
    logged = [record.getMessage() for record in caplog.get_records("call")]
    assert [line for line in logged if line.startswith("observer")] == []


@pytest.mark.virtual
async def test_tasks_by_outcome(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Every task is counted once, by scope, name, lane and how it ended."""
    async with TaskScope(
        name="app", lanes={"mail": 5}, grace_period=0, observers=[Prometheus(registry)]
    ) as scope:
        for _ in range(3):
            scope.task(name="save").schedule(nothing)
        scope.task(lane="mail", on_error=ignore).schedule(fail)
        scope.schedule(nothing).cancel()
        async with scope.lifecycle("end") as unit:
            unit.phase("end").task(when="failure").schedule(nothing)
        scope.schedule(swallow)
        await asyncio.sleep(0.1)
        await scope.drain(shield_timeout=0)
    assert scraped(registry, "taskcore_tasks_total") == {
        '{lane="",outcome="succeeded",scope="app",task="save"}': 3,
        '{lane="mail",outcome="failed",scope="app",task="fail"}': 1,
        '{lane="",outcome="cancelled",scope="app",task="nothing"}': 1,
        '{lane="",outcome="skipped",scope="app",task="nothing"}': 1,
        '{lane="",outcome="abandoned",scope="app",task="swallow"}': 1,
    }
    caplog.clear()


@pytest.mark.virtual
async def test_durations(registry: CollectorRegistry) -> None:
    """How long functions ran is shown in seconds; what never began has no duration."""
    async with TaskScope(name="app", observers=[Prometheus(registry)]) as scope:
        for seconds in (1, 3, 400):
            scope.task(name="nap").schedule(asyncio.sleep, seconds)
        scope.task(name="never").schedule(nothing).cancel()
    shown = scraped(registry, "taskcore_task_duration_seconds")
    labels = 'lane="",scope="app",task="nap"'
    assert shown[f"_count{{{labels}}}"] == 3
    assert shown[f"_sum{{{labels}}}"] == 404
    counted = 'lane="",le="{}",scope="app",task="nap"'
    bounds = {le: shown.get(f"_bucket{{{counted.format(le)}}}") for le in ("0.5", "1.0", "600.0")}
    assert bounds == {"0.5": None, "1.0": 1, "600.0": 3}
    assert not any("never" in name for name in shown)


async def test_retries(registry: CollectorRegistry) -> None:
    """Further attempts are counted, and the first one is not."""
    three = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(3))
    async with TaskScope(name="app", observers=[Prometheus(registry)]) as scope:
        scope.task(retry=three, on_error=ignore).schedule(fail)
        scope.task(retry=three).schedule(nothing)
    labels = '{lane="",scope="app",task="fail"}'
    assert scraped(registry, "taskcore_task_retries_total") == {labels: 2}


async def test_gauges(registry: CollectorRegistry) -> None:
    """A scrape shows what a scope has at that moment, and nothing of one that has closed."""
    release = threading.Event()
    async with TaskScope(
        name="app", limit=3, lanes={"mail": 2}, threads=2, processes=1, backlog=9,
        observers=[Prometheus(registry)],
    ) as scope:  # fmt: skip
        tasks = [scope.schedule(release.wait) for _ in range(4)]
        scope.task(lane="mail").schedule(asyncio.Event().wait)
        delayed = scope.task(delay=60).schedule(nothing)
        await tasks[0].started.wait()
        await tasks[1].started.wait()
        assert scraped(registry, "taskcore_scope_tasks") == {
            '{scope="app",state="running"}': 3,
            '{scope="app",state="scheduled"}': 1,
            '{scope="app",state="waiting"}': 1,
            '{scope="app",state="deferred"}': 1,
        }
        assert scraped(registry, "taskcore_lane") == {
            '_limit{lane="",scope="app"}': 3,
            '_limit{lane="mail",scope="app"}': 2,
            '_tasks{lane="",scope="app",state="running"}': 3,
            '_tasks{lane="",scope="app",state="waiting"}': 1,
            '_tasks{lane="",scope="app",state="deferred"}': 1,
            '_tasks{lane="mail",scope="app",state="running"}': 1,
        }
        assert scraped(registry, "taskcore_pool") == {
            '_size{pool="threads",scope="app"}': 2,
            '_size{pool="processes",scope="app"}': 1,
            '_calls{pool="threads",scope="app",state="running"}': 2,
            '_calls{pool="threads",scope="app",state="queued"}': 1,
        }
        in_thread = await asyncio.to_thread(scraped, registry, "taskcore_scope_tasks")
        assert in_thread['{scope="app",state="running"}'] == 3
        delayed.cancel()
        release.set()
        await scope.drain(grace_period=0)
    assert "taskcore_scope_tasks{" not in generate_latest(registry).decode()


async def test_two_scopes_on_one_registry(registry: CollectorRegistry) -> None:
    """Scopes share the metrics of a registry, by one observer or by several."""
    shared = Prometheus(registry)
    async with (
        TaskScope(name="a", observers=[shared]) as a,
        TaskScope(name="b", observers=[shared]) as b,
        TaskScope(name="c", observers=[Prometheus(registry)]) as c,
    ):
        for scope in (a, b, c):
            scope.schedule(nothing)
        now = scraped(registry, "taskcore_scope_tasks")
        assert now == {f'{{scope="{name}",state="scheduled"}}': 1 for name in "abc"}
    total = scraped(registry, "taskcore_tasks_total")
    labels = 'lane="",outcome="succeeded",scope="{}",task="nothing"'
    assert total == {f"{{{labels.format(name)}}}": 1 for name in "abc"}


async def test_scopes_of_one_name(registry: CollectorRegistry) -> None:
    """Scopes of the same name, and those without one, are added up."""
    for name in ("app", None):
        async with (
            TaskScope(name=name, limit=2, observers=[Prometheus(registry)]) as first,
            TaskScope(name=name, limit=3, observers=[Prometheus(registry)]) as second,
        ):
            first.schedule(nothing)
            second.schedule(nothing)
            label = name or ""
            now = scraped(registry, "taskcore_scope_tasks")
            assert now == {f'{{scope="{label}",state="scheduled"}}': 2}
            limits = scraped(registry, "taskcore_lane_limit")
            assert limits == {f'{{lane="",scope="{label}"}}': 5}
    names = [name for name in scrape(registry) if name.startswith("taskcore_tasks_total")]
    assert len(names) == 2


async def test_default_registry() -> None:
    """Without a registry the global one is used."""
    sample = 'taskcore_tasks_total{lane="",outcome="succeeded",scope="global",task="nothing"}'
    before = scrape(REGISTRY).get(sample, 0)
    async with TaskScope(name="global", observers=[Prometheus()]) as scope:
        scope.schedule(nothing)
    assert scrape(REGISTRY)[sample] == before + 1


async def test_two_registries(registry: CollectorRegistry) -> None:
    """Each registry has metrics of its own."""
    other = CollectorRegistry()
    async with TaskScope(name="app", observers=[Prometheus(registry)]) as scope:
        scope.schedule(nothing)
    Prometheus(other)
    assert scraped(registry, "taskcore_tasks_total") != {}
    assert scraped(other, "taskcore_") == {}


def test_scope_that_never_closed(registry: CollectorRegistry) -> None:
    """A scope whose loop has gone is not kept alive by the registry, and no longer shown."""

    async def lose() -> None:
        await TaskScope(name="lost", observers=[Prometheus(registry)]).__aenter__()
        assert 'scope="lost"' in generate_latest(registry).decode()

    asyncio.run(lose())
    gc.collect()
    assert 'scope="lost"' not in generate_latest(registry).decode()


def test_without_the_extra() -> None:
    """Without the client, the import says what to install; `taskcore` itself never needs it."""
    code = "import sys; sys.modules['prometheus_client'] = None; import taskcore.prometheus"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("ImportError: taskcore.prometheus needs")
    assert last.endswith('write: pip install "taskcore[prometheus]"')
