"""What is published of each package: its metadata, its licence, and the form of its changelog."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FOLDERS = {folder.name: folder for folder in ROOT.glob("packages/*")}
PROJECTS: dict[str, dict[str, Any]] = {
    name: tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, folder in FOLDERS.items()
}
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
KINDS = ("Security", "Removed", "Deprecated", "Added", "Changed", "Fixed")


def requirements(name: str) -> dict[str, Requirement]:
    """What a package depends on, by name."""
    found = map(Requirement, PROJECTS[name]["dependencies"])
    return {requirement.name: requirement for requirement in found}


def test_there_are_two_packages() -> None:
    """The tests below look at both packages."""
    assert set(FOLDERS) == {"taskcore", "fastapi-tasks"}


@pytest.mark.parametrize("name", FOLDERS)
def test_metadata_is_complete(name: str) -> None:
    """A package says what it is, whose, under which licence, and on which Pythons it is tested."""
    project = PROJECTS[name]
    for field in ("description", "readme", "license", "authors", "keywords", "requires-python"):
        assert project[field], field
    assert set(project["urls"]) == {"Documentation", "Source", "Changelog"}
    pythons = WORKSPACE["tool"]["hatch"]["envs"]["test"]["matrix"][0]["python"]
    language = "Programming Language :: Python :: "
    listed = [line.removeprefix(language) for line in project["classifiers"] if language in line]
    assert listed == ["3 :: Only", *pythons]
    assert project["requires-python"] == f">={pythons[0]}"
    assert {"Framework :: AsyncIO", "Typing :: Typed"} <= set(project["classifiers"])
    assert project["classifiers"] == sorted(project["classifiers"])


@pytest.mark.parametrize("name", FOLDERS)
def test_files_are_there(name: str) -> None:
    """A package has its own README, changelog and licence, the last as the repository's."""
    folder = FOLDERS[name]
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert not (folder / "LICENSE").is_symlink()  # it would lead nowhere in an sdist
    assert (folder / "README.md").read_text().startswith(f"# {name}\n")
    assert (folder / "src" / name.replace("-", "_") / "py.typed").exists()


def test_dependencies() -> None:
    """The core needs nothing, and has its extras; the adapter's range admits this core."""
    assert PROJECTS["taskcore"]["dependencies"] == []
    assert set(PROJECTS["taskcore"]["optional-dependencies"]) == {"otel", "prometheus"}
    adapter = requirements("fastapi-tasks")
    assert set(adapter) == {"taskcore", "fastapi", "starlette"}
    assert adapter["taskcore"].specifier.contains(PROJECTS["taskcore"]["version"])


@pytest.mark.parametrize("name", FOLDERS)
def test_changelog_is_in_form(name: str) -> None:
    """A changelog is in the form of Keep a Changelog, and begins with this version."""
    text = (FOLDERS[name] / "CHANGELOG.md").read_text(encoding="utf-8")
    head, *versions = re.split(r"^## ", text, flags=re.MULTILINE)
    assert head.startswith("# Changelog\n\nIn the form of [Keep a Changelog]")
    titles = [version.partition("\n")[0] for version in versions]
    assert titles[0].startswith(f"{PROJECTS[name]['version']} - ")
    assert [title for title in titles[1:] if title.endswith("unreleased")] == []
    for title, version in zip(titles, versions, strict=True):
        assert re.fullmatch(r"\d+\.\d+\.\d+ - (unreleased|\d{4}-\d\d-\d\d)", title)
        kinds = re.findall(r"^### (.+)$", version, flags=re.MULTILINE)
        assert kinds == [kind for kind in KINDS if kind in kinds], title
        body = [line for line in version.splitlines()[1:] if line and not line.startswith("### ")]
        assert body, title
        for line in body:
            assert re.fullmatch(r"- .+\.", line), line
