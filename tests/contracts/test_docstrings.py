"""The docstring of a public name says what it takes and raises, and what a cancellation does."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, cast

import fastapi_tasks.errors
import taskcore.errors
from tests.contracts.test_exports import PUBLIC

Documented: TypeAlias = Callable[..., Any]  # a function, a method, or a class

# In this order.
SECTIONS = (
    *("Pitfalls", "Args", "Attributes", "Returns", "Yields", "Raises"),
    *("Cancellation", "Example", "Source"),
)
ERRORS = vars(builtins) | vars(taskcore.errors) | vars(fastapi_tasks.errors)


def is_ours(thing: object) -> bool:
    """Whether a class or function is one of the packages' own."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] in ("taskcore", "fastapi_tasks")


def methods(kind: type) -> Iterator[Documented]:
    """The public methods and properties of a class, those of our base classes included."""
    for base in filter(is_ours, kind.__mro__):
        for name, member in vars(base).items():
            func = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(func) and is_ours(func) and not name.startswith("_"):
                yield func


def public() -> Iterator[Documented]:
    """Every class and function that a public module exports, and the methods of the classes."""
    for module in map(importlib.import_module, PUBLIC):
        for thing in (getattr(module, name) for name in module.__all__):
            if is_ours(thing) and (inspect.isclass(thing) or inspect.isfunction(thing)):
                yield thing
                yield from methods(thing) if inspect.isclass(thing) else ()


NAMES = {f"{thing.__module__}.{thing.__qualname__}": thing for thing in public()}
CLASSES: dict[str, type[Any]] = {
    name: cast("type[Any]", thing) for name, thing in NAMES.items() if inspect.isclass(thing)
}
FUNCTIONS = {name: thing for name, thing in NAMES.items() if name not in CLASSES}


def sections(thing: Documented) -> dict[str, str]:
    """The sections of a docstring, by title; what comes before the first one has none."""
    parts = re.split(r"^([A-Z]\w+):\n", inspect.cleandoc(thing.__doc__ or ""), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(thing: Documented, *titles: str) -> set[str]:
    """The names that the sections of these titles explain."""
    text = "".join(sections(thing).get(title, "") for title in titles)
    return set(re.findall(r"^    \*{0,2}(\w+): ", text, flags=re.MULTILINE))


def parameters(func: Callable[..., Any]) -> set[str]:
    """What a caller may pass, but for options that a `TypedDict` explains."""
    given = inspect.signature(func).parameters.values()
    return {
        parameter.name
        for parameter in given
        if parameter.name not in ("self", "cls") and "Unpack[" not in str(parameter.annotation)
    }


def raised(func: Callable[..., Any]) -> set[str]:
    """The names of the exceptions that the function itself makes and raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(func)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    names = {ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)}
    return {name for name in names if name in ERRORS}


def unexplained(func: Callable[..., Any], explained: set[str]) -> set[str]:
    """Of what `func` raises, that of which neither itself nor a base class is explained."""
    bases = tuple(ERRORS[name] for name in explained)
    return {name for name in raised(func) if not issubclass(ERRORS[name], bases)}


def test_public_names_have_docstrings_in_order() -> None:
    """Every public name is explained, and its sections have known titles in the usual order."""
    for name, thing in NAMES.items():
        summary, *titles = sections(thing).items()
        found = [title for title, _ in titles]
        assert summary[1].strip(), f"{name} has no docstring"
        assert found == [title for title in SECTIONS if title in found], name


def test_functions_explain_parameters_and_exceptions() -> None:
    """Each parameter of a public function is in `Args`, each exception it raises in `Raises`."""
    for name, func in FUNCTIONS.items():
        assert parameters(func) - entries(func, "Args") == set(), name
        assert unexplained(func, entries(func, "Raises")) == set(), name


def test_classes_explain_parameters_and_exceptions() -> None:
    """So does a class that users make, in its own docstring or in that of `__init__`."""
    for name, kind in CLASSES.items():
        init: Documented = inspect.getattr_static(kind, "__init__")
        is_made_by_us = str(init.__doc__).startswith("Made by")
        if dataclasses.is_dataclass(kind):
            fields = {field.name for field in dataclasses.fields(kind)}
            assert fields - entries(kind, "Attributes") == set(), name
        elif is_ours(init) and not issubclass(kind, BaseException) and not is_made_by_us:
            assert parameters(init) - entries(kind, "Args") - entries(init, "Args") == set(), name
            explained = entries(kind, "Raises") | entries(init, "Raises")
            assert unexplained(init, explained) == set(), name


def test_async_functions_say_what_a_cancellation_does() -> None:
    """Every public async function has a section `Cancellation`."""
    waiting = {name: sections(f) for name, f in FUNCTIONS.items() if inspect.iscoroutinefunction(f)}
    assert len(waiting) >= 5
    assert [name for name, parts in waiting.items() if "Cancellation" not in parts] == []


def test_every_test_says_what_it_shows() -> None:
    """Each test has a docstring."""
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                is_test = node.name.startswith("test_")
                assert ast.get_docstring(node) or not is_test, f"{path}: {node.name}"
