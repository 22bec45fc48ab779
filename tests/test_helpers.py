"""The helpers of the tests do what the tests trust them to do."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers import Journal, Outcome, cancel_at_every_await


def test_journal_events() -> None:
    """Events are kept in order, and the log cannot be changed from outside."""
    journal = Journal()
    journal.add("one")
    journal.add(("two", 2.0))
    journal.events.clear()
    assert journal.events == ["one", ("two", 2.0)]


def test_journal_order() -> None:
    """Other events may come between; a missing, repeated or misplaced one may not."""
    journal = Journal()
    for event in ("one", "x", "two", "x", "three"):
        journal.add(event)
    journal.assert_order("one", "two", "three")
    for wrong in (("two", "one"), ("one", "four"), ("one", "x")):
        with pytest.raises(AssertionError):
            journal.assert_order(*wrong)


async def test_cancelled_once_at_each_await() -> None:
    """There is one run without a cancellation, then one for each await that suspends."""
    journal = Journal()

    async def procedure() -> str:
        for step in "abc":
            journal.add(step)
            await asyncio.sleep(0)
        journal.add("|")
        return "done"

    outcomes = await cancel_at_every_await(procedure)

    assert "".join(str(event) for event in journal.events) == "abc|" + "a" + "ab" + "abc"
    assert outcomes[0] == Outcome((), cancelled=False, result="done")
    assert [outcome.cancelled for outcome in outcomes[1:]] == [True] * 3


async def test_cancelled_at_names_the_calls() -> None:
    """An outcome tells which await it was, down to the innermost call."""

    async def inner() -> None:
        await asyncio.sleep(0)

    async def procedure() -> None:
        await inner()

    _, outcome = await cancel_at_every_await(procedure)

    assert len(outcome.cancelled_at) == 1
    assert outcome.cancelled_at[0].startswith("await 1, procedure:")
    assert " > inner:" in outcome.cancelled_at[0]


async def test_cancelled_twice() -> None:
    """Each pair of awaits is tried, and the clean-up after the first cancellation is met."""
    journal = Journal()

    async def procedure() -> None:
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            journal.add("begin")
            await asyncio.sleep(0)
            journal.add("end")

    outcomes = await cancel_at_every_await(procedure, times=2)

    # not, at 1, 2 or 3, and at 1 and 2 (the first in its clean-up), 2 and 3
    assert [len(outcome.cancelled_at) for outcome in outcomes] == [0, 1, 1, 1, 2, 2]
    assert journal.events.count("begin") == 6
    assert journal.events.count("end") == 3


async def test_swallowed_cancellation() -> None:
    """A run that ends normally in spite of its cancellation is not called cancelled."""

    async def procedure() -> str:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "stubborn"
        return "normal"

    outcomes = await cancel_at_every_await(procedure)

    assert [outcome.result for outcome in outcomes] == ["normal", "stubborn"]
    assert not outcomes[1].cancelled


@pytest.mark.parametrize("late", [False, True])
async def test_late_cancellation(late: bool) -> None:
    """Only a late cancellation finds what the procedure waited for already done."""

    async def procedure() -> str:
        event = asyncio.Event()
        waiter = asyncio.create_task(event.wait())
        asyncio.get_running_loop().call_soon(event.set)
        try:
            await waiter
        except asyncio.CancelledError:
            return "cancelled" if waiter.cancelled() else "done"
        return "done"

    outcomes = await cancel_at_every_await(procedure, late=late)

    assert [outcome.result for outcome in outcomes] == ["done", "done" if late else "cancelled"]


async def test_check() -> None:
    """The check sees each outcome as its run ends, and may be async."""
    seen: list[Outcome[None]] = []

    async def check(outcome: Outcome[None]) -> None:
        await asyncio.sleep(0)
        seen.append(outcome)

    outcomes = await cancel_at_every_await(lambda: asyncio.sleep(0), check=check)

    assert seen == outcomes
    assert len(await cancel_at_every_await(lambda: asyncio.sleep(0), check=seen.append)) == 2


async def test_failed_check_notes_the_await() -> None:
    """The error of a check says at which await its run was cancelled."""

    def check(outcome: Outcome[None]) -> None:
        assert not outcome.cancelled

    with pytest.raises(AssertionError) as caught:
        await cancel_at_every_await(lambda: asyncio.sleep(0), check=check)
    assert "await 1, sleep:" in caught.value.__notes__[-1]


async def test_error_instead_of_cancellation() -> None:
    """An error that a cancellation provokes is raised, not hidden in an outcome."""

    async def procedure() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise KeyError("clean-up") from None

    with pytest.raises(KeyError) as caught:
        await cancel_at_every_await(procedure)
    assert "await 1, procedure:" in caught.value.__notes__[-1]


async def test_task_left_behind() -> None:
    """A run that leaves a task pending fails."""
    left: list[asyncio.Task[bool]] = []

    async def procedure() -> None:
        left.append(asyncio.create_task(asyncio.Event().wait()))
        await asyncio.sleep(0)
        left[-1].cancel()
        await asyncio.wait(left[-1:])

    try:
        with pytest.raises(AssertionError) as caught:
            await cancel_at_every_await(procedure)
        assert "await 1, procedure:" in caught.value.__notes__[-1]
    finally:
        left[-1].cancel()
        await asyncio.wait(left[-1:])


@pytest.mark.virtual
async def test_virtual_clock() -> None:
    """Procedures that wait for time are cancelled on the virtual clock just the same."""
    outcomes = await cancel_at_every_await(lambda: asyncio.sleep(3600, "late"))
    assert [outcome.result for outcome in outcomes] == ["late", None]
