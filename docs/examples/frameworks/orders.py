"""What is to be done for an order: the same in each framework.

Each step leaves a line in a journal, `process id, step, order`. The journal is open while
the application runs: it stands for what tasks use and a teardown closes, such as a pool of
database connections.
"""

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

GRACE_PERIOD = float(os.environ.get("GRACE_PERIOD") or 5)
"""Seconds that a shutdown waits for tasks that are not shielded."""


class Orders:
    """The steps of an order; each is a task."""

    def __init__(self, journal: TextIO) -> None:
        self._journal = journal

    def accepts(self, order: str) -> bool:
        """Whether there is such an order."""
        return not order.startswith("bad")

    async def track(self, order: str) -> None:
        """Note that somebody wants it."""
        self._write("tracked", order)

    async def charge(self, order: str) -> None:
        """Take the money: a shutdown must not cut this."""
        self._write("charging", order)
        await asyncio.sleep(0.5)
        self._write("charged", order)

    def mail(self, order: str) -> None:
        """Write to the customer."""
        self._write("mailed", order)

    def alert(self, order: str) -> None:
        """Tell somebody that it was refused."""
        self._write("alerted", order)

    def _write(self, step: str, order: str) -> None:
        self._journal.write(f"{os.getpid()} {step} {order}\n")


@contextmanager
def open_orders() -> Generator[Orders]:
    """Keep the journal open for the length of a block."""
    path = Path(os.environ.get("JOURNAL") or "orders.log")
    with path.open("a", buffering=1) as journal:
        journal.write(f"{os.getpid()} startup \n")
        yield Orders(journal)
        journal.write(f"{os.getpid()} teardown \n")
