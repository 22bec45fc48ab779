"""Frozen classes: what a frozen dataclass is and does, without loading `dataclasses`."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from typing import Any, get_type_hints

import pytest

from taskcore import DrainEntry, DrainReport, Interval, TaskConfig
from taskcore._frozen import frozen, replace
from taskcore.spi import LaneStatistics, PoolStatistics

SLOTTED = [
    DrainEntry("mail", 1, 0.5),
    DrainReport(succeeded=(DrainEntry("mail", 1, 0.5),), duration=1.0),
    Interval(60, jitter=5),
    LaneStatistics("mail", limit=1, backlog=None, running=1, waiting=0, deferred=0),
    PoolStatistics(size=2, busy=1, idle=1, queued=0),
]
VALUES = [*SLOTTED, TaskConfig(name="mail", shield=True)]


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """What `Point` is measured by."""

    x: int
    label: str = "here"
    tags: tuple[str, ...] = ()


@frozen(slots=True)
class Point:
    """The same, frozen our way."""

    x: int
    label: str = "here"
    tags: tuple[str, ...] = ()


def test_dataclasses_is_not_loaded() -> None:
    """C4: `import taskcore` does not load `dataclasses`, which asyncio does without as well."""
    code = "import sys, taskcore; print('dataclasses' in sys.modules)"
    # Without what lets coverage measure it: that loads a lot.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert run.stdout.strip() == "False"


def test_to_dataclasses_it_is_one() -> None:
    """`dataclasses` finds the fields, types, defaults and parameters of a frozen dataclass."""
    ours, theirs = dataclasses.fields(Point), dataclasses.fields(Model)
    assert [repr(field) for field in ours] == [repr(field) for field in theirs]
    point: Any = Point
    assert point.__dataclass_params__.frozen
    assert dataclasses.is_dataclass(point)
    assert get_type_hints(Point) == get_type_hints(Model)
    assert dataclasses.asdict(Point(1)) == dataclasses.asdict(Model(1))
    assert dataclasses.astuple(Point(1)) == dataclasses.astuple(Model(1))


def test_it_can_be_the_base_of_a_dataclass() -> None:
    """A frozen dataclass may derive from it, and copies and pickles what it adds."""
    place = Place(1, name="home")
    assert repr(place) == "Place(x=1, label='here', tags=(), name='home')"
    assert pickle.loads(pickle.dumps(place)) == copy.copy(place) == place
    assert Plain(1).__dict__ == {}
    assert copy.copy(Plain(1)) == Plain(1) != Point(1)


@dataclasses.dataclass(frozen=True)
class Place(Point):
    """A user's."""

    name: str = ""


class Plain(Point):
    """A user's, without a decorator."""


@pytest.mark.parametrize("value", VALUES)
def test_value_is_frozen(value: Any) -> None:
    """Nothing can be assigned, added or deleted."""
    for name in (dataclasses.fields(value)[0].name, "other"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to .*{name}"):
            setattr(value, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot delete .*{name}"):
            delattr(value, name)


@pytest.mark.parametrize("value", VALUES)
def test_value_is_what_its_fields_are(value: Any) -> None:
    """Copies of each kind are equal and hash alike; a value that differs in one field does not."""
    copies = [
        copy.copy(value),
        copy.deepcopy(value),
        pickle.loads(pickle.dumps(value)),
        dataclasses.replace(value),
        replace(value),
        type(value)(**{name: getattr(value, name) for name in value.__match_args__}),
    ]
    assert set(copies) == {value}
    first = dataclasses.fields(value)[0].name
    other = replace(value, **{first: 7 if first != "name" else "other"})
    assert other != value != object()
    assert other == dataclasses.replace(value, **{first: getattr(other, first)})
    assert repr(value).startswith(f"{type(value).__name__}({first}={getattr(value, first)!r}, ")


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace is new in Python 3.13")
def test_copy_replace() -> None:
    """So does `copy.replace`."""
    replace_: Any = getattr(copy, "replace")  # noqa: B009 (type checkers look at 3.11)
    assert replace_(Point(1), x=2) == Point(2)


@pytest.mark.parametrize("value", SLOTTED)
def test_value_has_slots(value: Any) -> None:
    """It has no dictionary, and can be matched by position."""
    assert not hasattr(value, "__dict__")
    assert value.__slots__ == value.__match_args__


def test_showing() -> None:
    """It shows itself as a dataclass does."""
    assert repr(Point(1, tags=("a",))) == repr(Model(1, tags=("a",))).replace("Model", "Point")
    assert hash(Point(1)) == hash(Model(1))


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, "a", (), 4), {}), ((1,), {"x": 1}), ((1,), {"y": 1}), ((), {"label": "a"})],
)
def test_wrong_values_are_refused(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    """I7: too few, too many, twice the same, or unknown: the error says what to pass."""
    kind: Any = Point
    with pytest.raises(TypeError, match=r"make Point .* pass x, label, tags, each once"):
        kind(*values, **named)
