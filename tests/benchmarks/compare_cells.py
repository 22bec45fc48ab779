"""One cell of the table of `compare`: what one library does, tried.

Run as `python -m tests.benchmarks.compare_cells QUESTION PEER`, where a question is the name
of a function below; prints the answer.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from tests.benchmarks.compare_app import Site, Ways

YES, NO, NONE = "yes", "no", "-"
WHILE = 0.1  # seconds in which what is going to happen at once has happened


async def done(answer: Any) -> Any:
    """What a way gave back, awaited where it has to be."""
    return await answer if inspect.iscoroutine(answer) else answer


# -- each answers yes, no, or a dash -----------------------------------------------------------


async def now(peer: str) -> str:
    """A task starts while the endpoint goes on."""

    async def use(ways: Ways) -> None:
        await done(ways.some(site.note, "task"))
        await asyncio.sleep(WHILE)

    site = Site(peer, use)
    await site.run()
    return YES if site.events.index("task") < site.events.index("endpoint") else NO


async def after_route(peer: str) -> str:
    """A task can start after the endpoint, before the first byte."""

    async def begins() -> None:
        site.events.append("task")

    async def use(ways: Ways) -> None:
        if ways.after_route:
            ways.after_route(begins)

    site = Site(peer, use)
    await site.run()
    if "task" not in site.events:
        return NONE
    order = [event for event in site.events if event in ("endpoint", "task", "first byte")]
    return YES if order == ["endpoint", "task", "first byte"] else NO


async def after_response(peer: str) -> str:
    """A task can start after the response."""

    async def use(ways: Ways) -> None:
        if ways.after_response:
            ways.after_response(site.note, "task")

    site = Site(peer, use)
    await site.start()
    await site.get()
    await asyncio.sleep(WHILE)
    if "task" not in site.events:
        return NONE
    return YES if site.events.index("task") > site.events.index("last byte") else NO


async def committed(peer: str) -> str:
    """That is after a `yield` dependency has committed."""
    answer = await after_response(peer)
    if answer is not YES:
        return answer
    site = Site(peer)

    async def use(ways: Ways) -> None:
        ways.after_response(site.note, "task")

    site.use = use
    await site.start()
    await site.get()
    await asyncio.sleep(WHILE)
    return YES if site.events.index("task") > site.events.index("commit") else NO


async def harmless(peer: str, error: BaseException | None = None) -> str:
    """A task that raises harms no other."""

    async def fail() -> None:
        raise error or ValueError

    async def use(ways: Ways) -> None:
        await done(ways.some(fail))
        await done(ways.some(site.note, "task", WHILE))

    site = Site(peer, use)
    with suppress(ExceptionGroup):
        await site.start()
        await site.get()
        await asyncio.sleep(2 * WHILE)
        return YES if "task" in site.events else NO
    return NO


async def exits(peer: str) -> str:
    """Nor does one that raises `SystemExit`."""
    return await harmless(peer, SystemExit(0))


async def reaches(peer: str) -> str:
    """A task that raises can cancel the others, and reach their owner."""

    async def fail() -> None:
        raise ValueError

    async def use(ways: Ways) -> None:
        await done(ways.some(site.note, "task", WHILE))
        await done(ways.some(fail))

    site = Site(peer, use)
    try:
        await site.run()
    except (ValueError, ExceptionGroup):
        return NO if "task" in site.events else YES
    return NO


async def result(peer: str) -> str:
    """`schedule` returns a handle that gives the result."""
    answers: list[object] = []

    async def use(ways: Ways) -> None:
        handle = await done(ways.some(site.note, "task"))
        if hasattr(handle, "__await__"):
            answers.append(await handle)
        elif inspect.iscoroutinefunction(getattr(handle, "wait", None)):
            answers.append(await handle.wait())

    site = Site(peer, use)
    await site.run()
    return YES if answers == ["task"] else NO


async def cancels(peer: str) -> str:
    """The handle can cancel."""

    async def long() -> None:
        try:
            await asyncio.sleep(2 * WHILE)
        except asyncio.CancelledError:
            site.events.append("cancelled")
            raise

    async def use(ways: Ways) -> None:
        handle = await done(ways.some(long))
        await asyncio.sleep(WHILE)
        with suppress(asyncio.CancelledError):
            await done(getattr(handle, ways.cancel, lambda: None)())
        await asyncio.sleep(0)

    site = Site(peer, use)
    await site.start()
    await site.get()
    return YES if "cancelled" in site.events else NO


async def limited(peer: str) -> str:
    """There can be a limit on the tasks that run at once."""
    if peer not in ("aiojobs", "ours"):
        return NONE
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(WHILE / 10)
        running -= 1

    async def use(ways: Ways) -> None:
        for _ in range(6):
            await done(ways.now(work))

    await Site(peer, use, {"limit": 2}).run()
    return YES if most == 2 else NO  # pyright: ignore[reportUnnecessaryComparison] (nonlocal)


async def plain(peer: str) -> str:
    """Plain functions run in a thread."""
    threads: list[threading.Thread] = []

    async def use(ways: Ways) -> None:
        await done(ways.some(lambda: threads.append(threading.current_thread())))

    with suppress(ExceptionGroup):
        site = Site(peer, use)
        await site.start()
        await site.get()
        await asyncio.sleep(WHILE)
    return YES if threads and threads[0] is not threading.main_thread() else NO


async def crowd(peer: str) -> str:
    """A hundred stuck plain functions do not hold up `def` endpoints."""
    if await plain(peer) == NO:
        return NONE

    async def use(ways: Ways) -> None:
        ways.some(time.sleep, 3600)

    site = Site(peer, use)
    await site.start()
    stuck = [asyncio.ensure_future(site.get()) for _ in range(100)]
    await asyncio.sleep(2 * WHILE)
    quick = asyncio.ensure_future(site.get("/plain"))
    await asyncio.wait([quick], timeout=2.0)
    del stuck
    print(YES if quick.done() else NO, flush=True)
    os._exit(0)  # `stuck` asks whether it would have ended by itself


async def from_thread(peer: str) -> str:
    """A task can be scheduled from a thread of one's own."""

    async def work() -> None:
        site.events.append("task")
        begun.set()

    def schedule(ways: Ways) -> None:
        time.sleep(WHILE)  # until the loop waits
        with suppress(Exception):
            answer = ways.some(work)
            with suppress(StopIteration):  # aiojobs: a coroutine that does not wait
                if inspect.iscoroutine(answer):
                    answer.send(None)

    async def use(ways: Ways) -> None:
        thread = threading.Thread(target=schedule, args=(ways,))
        thread.start()
        if ways.now is None:
            await asyncio.to_thread(thread.join)
        else:  # the loop has nothing to do until the task begins
            with suppress(TimeoutError):
                await asyncio.wait_for(begun.wait(), 1.0)

    begun = asyncio.Event()
    site = Site(peer, use)
    began = time.monotonic()
    await site.start()
    await site.get()
    return YES if "task" in site.events and time.monotonic() - began < 0.9 else NO


async def refused(peer: str) -> str:
    """Wrong arguments are refused at the call."""
    answers: list[str] = []

    async def use(ways: Ways) -> None:
        try:
            await done(ways.some(site.note))
        except TypeError:
            answers.append(YES)

    site = Site(peer, use)
    with suppress(ExceptionGroup):
        await site.run()
    return YES if answers else NO


async def finishes(peer: str) -> str:
    """At shutdown a running task may finish, before the lifespan's teardown."""

    async def use(ways: Ways) -> None:
        await done(ways.some(site.note, "task", 3 * WHILE))

    site = Site(peer, use)
    await site.run()
    return YES if "task" in site.events[: site.events.index("teardown")] else NO


def cleaned_up(peer: str) -> str:
    """A shielded task outlives the clean-up of the loop (a second Ctrl-C)."""

    async def use(ways: Ways) -> None:
        await done((ways.shielded or ways.some)(site.note, "task", 3 * WHILE))

    async def main() -> None:
        await site.start()
        requests.append(asyncio.ensure_future(site.get()))
        await asyncio.sleep(WHILE)

    requests: list[asyncio.Future[None]] = []
    site = Site(peer, use)
    asyncio.run(main())
    return YES if "task" in site.events else NO


async def bounded(peer: str, work: Any = None) -> str:
    """Shutdown ends although a task swallows its cancellation."""

    async def swallow() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def use(ways: Ways) -> None:
        await done(ways.some(work or swallow))

    options = {
        "ours": {"grace_period": WHILE, "shield_timeout": WHILE},
        "aiojobs": {"wait_timeout": WHILE, "close_timeout": WHILE},
    }
    await Site(peer, use, options.get(peer, {})).run()
    return YES


def stuck(peer: str) -> str:
    """Shutdown ends although a task is stuck in a thread, and the process does."""
    if asyncio.run(plain(peer)) == NO:
        return NONE
    return asyncio.run(bounded(peer, lambda: time.sleep(3600)))


if __name__ == "__main__":
    question, peer = sys.argv[1:]
    answer = globals()[question](peer)
    print(asyncio.run(answer) if inspect.iscoroutine(answer) else answer)
