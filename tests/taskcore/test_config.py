"""Settings of a task and of a scope: defaults, merging, and what makes no sense."""

# Nobody can annotate a lambda.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore import TaskConfig, TaskScope
from taskcore.errors import ConfigError, ConfigTypeError, ConfigValueError
from taskcore.spi import RunIn

FIELDS = (
    *("name", "shield", "on_error", "timeout", "retry"),
    *("limiter", "when", "run_in", "lane", "delay"),
)


def handle(task: object, error: object) -> None:
    pass


async def retry(func: Any, *args: Any, **kwargs: Any) -> Any:
    return await func(*args, **kwargs)


class Handler:
    def handle(self, task: object, error: object) -> None:
        pass

    def __call__(self, task: object, error: object) -> None:
        pass


# -- the config of a task -----------------------------------------------------------------


def test_defaults() -> None:
    """Nothing is set by default, and nothing that is not set shields."""
    config = TaskConfig()
    assert tuple(field.name for field in dataclasses.fields(config)) == FIELDS
    assert [getattr(config, name) for name in FIELDS] == [None] * len(FIELDS)
    assert not config.shielded
    assert not TaskConfig(shield=False).shielded
    assert TaskConfig(shield=True).shielded


def test_frozen() -> None:
    """A config cannot be changed; `merge` and `dataclasses.replace` make another."""
    config = TaskConfig(timeout=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.timeout = 6  # type: ignore[misc]  # what is refused
    with pytest.raises(dataclasses.FrozenInstanceError):
        del config.timeout  # pyright: ignore[reportAttributeAccessIssue]  # what is refused
    assert dataclasses.replace(config, name="slow") == TaskConfig(timeout=5, name="slow")


def test_value_semantics() -> None:
    """Equal settings are equal, hash alike, show themselves, and survive copy and pickle."""
    config = TaskConfig(name="slow", timeout=5, shield=False)
    assert config == TaskConfig(name="slow", timeout=5, shield=False) != TaskConfig()
    assert hash(config) == hash(TaskConfig(name="slow", timeout=5, shield=False))
    assert "name='slow', shield=False" in repr(config)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b"]),
        "shield": st.booleans(),
        "on_error": st.sampled_from([handle, Handler()]),
        "timeout": st.sampled_from([0, 1.5]),
        "retry": st.sampled_from([retry, partial(retry)]),
        "when": st.sampled_from(["success", "failure", "always"]),
        "run_in": st.sampled_from(["loop", "thread", "process"]),
        "lane": st.sampled_from(["mail", "web"]),
        "delay": st.sampled_from([0, 2]),
    },
)


@given(OPTIONS, OPTIONS, OPTIONS)
def test_merge(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    """What the other sets wins, what it leaves out stays, and the order of merging is free."""
    first, second, third = TaskConfig(**one), TaskConfig(**two), TaskConfig(**three)
    assert first.merge(second) == first.refine(**two) == TaskConfig(**{**one, **two})
    assert first == TaskConfig(**one)
    assert first.merge(TaskConfig()) == TaskConfig().merge(first) == first
    assert first.merge(second).merge(third) == first.merge(second.merge(third))


def test_merge_with_something_else() -> None:
    """I7: only a config can be merged, and the message says so."""
    other: Any = {"name": "a"}
    with pytest.raises(ConfigTypeError, match="pass a TaskConfig"):
        TaskConfig().merge(other)


async def test_retry_and_limiter_and_executor() -> None:
    """Any async callable, async context manager and executor can be set."""
    limiter, executor = asyncio.Semaphore(1), ThreadPoolExecutor(1)
    config = TaskConfig(retry=retry, limiter=limiter, run_in=executor)
    assert (config.retry, config.limiter, config.run_in) == (retry, limiter, executor)
    executor.shutdown()


@pytest.mark.parametrize(
    "handler",
    [
        handle,
        Handler().handle,
        Handler(),
        partial(handle),
        print,
        max,
        lambda *args: None,
        lambda task, *rest: None,
        lambda task, error, more=1: None,
        lambda task=None, error=None, *, log=None: None,
        wraps(Handler.handle)(lambda *args: None),
    ],
)
def test_handlers(handler: Any) -> None:
    """Whatever can be called with a task and an exception is a handler."""
    assert TaskConfig(on_error=handler).on_error is handler


@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda task: None,
        lambda task, error, more: None,
        lambda task, error, *, log: None,
        partial(handle, 1, 2),
    ],
)
def test_handler_with_other_parameters(handler: Any) -> None:
    """I7: a handler that cannot take two arguments is refused when it is set."""
    with pytest.raises(ConfigTypeError, match=r"write it as a function \(task, exception\)"):
        TaskConfig(on_error=handler)


NONSENSE: list[tuple[str, Any, type[Exception], str]] = [
    ("name", "", ConfigValueError, "pass a name, or leave it out"),
    ("name", 3, ConfigTypeError, "pass a str"),
    ("lane", "", ConfigValueError, "pass a name, or leave it out"),
    ("lane", 3, ConfigTypeError, "pass a str"),
    ("shield", 1, ConfigTypeError, "pass True or False"),
    ("shield", "yes", ConfigTypeError, "pass True or False"),
    ("on_error", "log", ConfigTypeError, r"pass a function \(task, exception\)"),
    ("timeout", "5", ConfigTypeError, "pass seconds, or leave it out"),
    ("timeout", True, ConfigTypeError, "pass seconds, or leave it out"),
    ("timeout", -1, ConfigValueError, "pass seconds >= 0, or leave it out for no limit"),
    ("timeout", math.nan, ConfigValueError, "pass seconds >= 0, or leave it out for no limit"),
    ("timeout", math.inf, ConfigValueError, "pass seconds >= 0, or leave it out for no limit"),
    ("timeout", 10**400, ConfigValueError, "pass seconds >= 0"),
    ("delay", -0.1, ConfigValueError, "pass seconds >= 0"),
    ("delay", [], ConfigTypeError, "pass seconds"),
    ("delay", 10**400, ConfigValueError, "pass seconds >= 0"),
    ("retry", 3, ConfigTypeError, r"pass an async callable retry\(func, \*args, \*\*kwargs\)"),
    ("limiter", 3, ConfigTypeError, r"such as asyncio\.Semaphore\(5\)"),
    ("limiter", asyncio.Semaphore, ConfigTypeError, r"such as asyncio\.Semaphore\(5\)"),
    ("when", "later", ConfigValueError, r"pass one of \('success', 'failure', 'always'\)"),
    ("when", [], ConfigValueError, "pass one of"),
    ("run_in", "coroutine", ConfigValueError, r"pass one of \('loop', 'thread', 'process'\) or a"),
    ("run_in", [], ConfigValueError, "pass one of"),
]


@pytest.mark.parametrize(
    ("option", "value", "error", "fix"), NONSENSE, ids=lambda case: repr(case)[:30]
)
def test_nonsense(option: str, value: Any, error: type[Exception], fix: str) -> None:
    """I7: an option that makes no sense is refused when it is set, and says what to pass."""
    with pytest.raises(error, match=fix) as caught:
        TaskConfig(**{option: value})
    assert str(caught.value).startswith(f"{option}=")
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("option", "value", "error", "fix"), NONSENSE[::3], ids=lambda case: repr(case)[:30]
)
async def test_nonsense_of_task(option: str, value: Any, error: type[Exception], fix: str) -> None:
    """I7: `task` refuses the same, before anything is scheduled."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        with pytest.raises(error, match=fix):
            unit.phase("end").task(**{option: value})


def test_unknown_option() -> None:
    """I7: an option that no task has is refused, and the message names those that it has."""
    misspelt: dict[str, Any] = {"nmae": "mail"}
    with pytest.raises(ConfigTypeError, match="unknown option 'nmae': a task has name, shield,"):
        TaskConfig(**misspelt)


# -- the options of a scope ---------------------------------------------------------------

SCOPE_NONSENSE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"limit": 0}, ConfigValueError, "pass at least 1, or None for no limit"),
    ({"limit": 1.5}, ConfigTypeError, "pass an int"),
    ({"limit": True}, ConfigTypeError, "pass an int"),
    ({"limit": 1, "backlog": -1}, ConfigValueError, "pass at least 0, or None for no limit"),
    ({"limit": 1, "backlog": "9"}, ConfigTypeError, "pass an int"),
    ({"backlog": 5}, ConfigValueError, r"pass limit=\.\.\. too"),
    ({"threads": 0}, ConfigValueError, "pass at least 1"),
    ({"threads": None}, ConfigTypeError, "pass an int"),
    ({"processes": 0}, ConfigValueError, "pass at least 1"),
    ({"grace_period": -1}, ConfigValueError, "pass seconds >= 0, or None for no limit"),
    ({"grace_period": "5"}, ConfigTypeError, "pass seconds, or None"),
    ({"shield_timeout": math.nan}, ConfigValueError, "pass seconds >= 0, or None for no limit"),
    ({"shield_timeout": math.inf}, ConfigValueError, "or None for no limit"),
    ({"config": {"name": "a"}}, ConfigTypeError, r"pass TaskConfig\(\.\.\.\)"),
    ({"lanes": {"mail": 0}}, ConfigValueError, "pass at least 1"),
    ({"lanes": {"mail": None}}, ConfigTypeError, "pass an int"),
    ({"lanes": {"mail": "2"}}, ConfigTypeError, "pass an int"),
    ({"on_drain": "log"}, ConfigTypeError, r"pass a function\(report\)"),
    ({"observers": ["log"]}, ConfigTypeError, r"pass functions?\(event\)"),
]


@pytest.mark.parametrize(("options", "error", "fix"), SCOPE_NONSENSE, ids=lambda case: repr(case))
def test_scope_nonsense(options: dict[str, Any], error: type[Exception], fix: str) -> None:
    """I7: a scope with options that make no sense is refused when it is made."""
    with pytest.raises(error, match=fix):
        TaskScope(**options)


async def test_config_that_does_not_fit_the_function() -> None:
    """I7: a coroutine function that is to run in a thread is refused at the call."""

    async def fetch() -> None:
        pass

    async with TaskScope() as scope:
        places: tuple[RunIn, ...] = ("thread", "process")
        for where in places:
            with pytest.raises(ConfigValueError, match="leave run_in out, or schedule a plain"):
                scope.task(run_in=where).schedule(fetch)


async def test_unknown_lane() -> None:
    """I7: a lane that the scope does not have is refused at the call, which shows how to add it."""

    async def fetch() -> None:
        pass

    async with TaskScope(lanes={"mail": 1, "web": 2}) as scope, scope.lifecycle("end") as unit:
        for target in (scope.task(lane="x"), scope.task(lane="x", delay=1), unit.task(lane="x")):
            with pytest.raises(ConfigValueError, match=r"has 'mail', 'web'; add it with TaskScope"):
                target.schedule(fetch)
        with pytest.raises(ConfigValueError, match="add it with TaskScope"):
            unit.phase("end").task(lane="x").schedule(fetch)
        with pytest.raises(ConfigValueError, match="add it with TaskScope"):
            await scope.wait_for_room("x")


async def test_when_without_a_phase() -> None:
    """I7: `when` on something that starts at once is refused, and says where it belongs."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        for target in (scope, unit, scope.task(name="a")):
            with pytest.raises(ConfigValueError, match=r"write phase\.task\(when=\.\.\.\)"):
                target.task(when="always")
