"""What is promised: the figures of C1 to C4, and what becomes of them in a run."""

from __future__ import annotations

from dataclasses import dataclass

BASE = "bare safe idiom"
PLAIN = "taskcore"
REFERENCE = "fastapi-tasks 0.1.0"
AIOJOBS = "aiojobs, wait_and_close()"

TASK_LIMITS = {
    PLAIN: 1.25,
    "taskcore, config made once": 1.5,
    "taskcore, config of the scope": 1.5,
    "taskcore, config per call": 1.5,
    "taskcore, limit not reached": 1.5,
    "taskcore, limit and backlog not reached": 1.5,
    "taskcore, limit=50, tasks wait": 1.5,
    "taskcore, phase": 1.5,
    "taskcore, phase looked up per task": 1.5,
}
"""C1: the most that a task may cost, in bare safe idioms."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One promised figure, as it was measured.

    Attributes:
        promise: Its id.
        what: What is compared with what.
        value: The ratio.
        target: What it may be at most.
        at_least: The target is a floor instead.
        where: The interpreter and the loop.
    """

    promise: str
    what: str
    value: float
    target: float
    where: str = ""
    at_least: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        sign = ">=" if self.at_least else "<="
        return (
            self.promise,
            self.what,
            self.where,
            f"{self.value:.2f}",
            f"{sign} {self.target:.2f}",
            "yes" if self.is_kept else "NO",
        )
