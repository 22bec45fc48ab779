"""What the documentation site must have: every word, every public name, every page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.test_exports import PUBLIC

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference/*.md"))

# The words of the house style that code, messages and prose keep to.
WORDS = (
    *("scope", "task", "handle", "schedule", "start", "phase", "shield", "drain", "grace period"),
    *("timeout", "deadline", "limit", "backpressure", "cancel"),
)


def resolve(dotted: str) -> Any:
    """The module or object of a dotted name."""
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        owner, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(owner), name)


def shown() -> list[Any]:
    """The objects that the reference shows: named one by one, or by their module."""
    found: list[Any] = []
    for dotted in re.findall(r"^::: (\S+)", REFERENCE, re.MULTILINE):
        thing = resolve(dotted)
        found.append(thing)
        found += [getattr(thing, name) for name in getattr(thing, "__all__", ())]
    return found


SHOWN = shown()


@pytest.mark.parametrize("word", WORDS)
def test_glossary_has_the_word(word: str) -> None:
    """Each word of the house style has an entry of its own."""
    assert re.search(rf"^### {word}\n\n\S", GLOSSARY, re.MULTILINE), f"docs/glossary.md: {word}"


@pytest.mark.parametrize("module", PUBLIC)
def test_reference_has_every_public_name(module: str) -> None:
    """Whatever a public module exports is in the reference, under this name or another."""
    namespace = importlib.import_module(module)
    for name in namespace.__all__:
        thing = getattr(namespace, name)
        assert any(thing is other for other in SHOWN), (
            f"{module}.{name} is not in the reference: write '::: {module}.{name}' "
            "into a page of docs/reference/"
        )


def test_figures_are_those_of_the_readme() -> None:
    """The figures of other libraries in why.md stand in the tables of README.md."""
    why = (DOCS / "why.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    figures = re.findall(r"(\d+) of (\d+)", why)
    assert len(figures) == 2
    for lost, accepted in figures:
        assert re.search(rf"\| {accepted} .*\| {lost} \|", readme), f"{lost} of {accepted}"


def test_settings_name_no_machine() -> None:
    """mkdocs.yml has no absolute path, and no address but the placeholder."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s/]+", settings)) == {"https://example.org"}
    assert not re.search(r"[\s:'\"](?:/\w|~)", settings)
