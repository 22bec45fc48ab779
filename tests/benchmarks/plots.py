"""The plots of docs/benchmarks.md, from a file of results, as SVG files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from tests.benchmarks import memory, request, throughput
from tests.benchmarks.measure import LOOPS, ratio
from tests.benchmarks.promises import BASE

OURS, OTHERS = "#0f766e", "#a8a29e"
OURS_2, OTHERS_2 = "#5eead4", "#e7e5e4"

mpl.use("svg")
plt.rcParams.update(
    {
        "svg.hashsalt": "benchmarks",  # the same figures make the same file
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }
)


def save(folder: Path, name: str) -> None:
    """Write the current figure, without the date."""
    plt.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close()


def is_ours(name: str) -> bool:
    """Whether a bar shows ours."""
    ours = ("taskcore", "add_tasks", "injected", "one task", "three tasks")
    return name.startswith(ours) or name == "fastapi-tasks"


def bars(names: Sequence[str], values: dict[str, list[float]], label: str) -> None:
    """Horizontal bars, a pair for each name: the loops."""
    _, axes = plt.subplots(figsize=(7.5, 0.34 * len(names) * len(values) / 2 + 1.2))
    width = 0.8 / len(values)
    for at, (key, numbers) in enumerate(values.items()):
        colours = [
            (OURS, OURS_2)[at % 2] if is_ours(name) else (OTHERS, OTHERS_2)[at % 2]
            for name in names
        ]
        places = [y + at * width for y in range(len(names))]
        drawn = axes.barh(places, numbers, width, color=colours, label=key)
        axes.bar_label(drawn, fmt="%.2f", padding=2, fontsize=7)
    axes.set_yticks([y + width * (len(values) - 1) / 2 for y in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.axvline(1, color="black", linewidth=0.6)


def lines(by_name: dict[str, dict[str, float]], label: str) -> None:
    """Lines over a number of tasks."""
    _, axes = plt.subplots(figsize=(7.5, 3.4))
    for name, by_size in by_name.items():
        bare = name.startswith("bare")
        axes.plot(
            [int(n) for n in by_size],
            [seconds * 1e6 for seconds in by_size.values()],
            marker="o",
            linestyle="--" if "at once" in name else "-",
            color=OTHERS if bare else None,
            label=name,
        )
    axes.set(xscale="log", ylim=(0, None), xlabel="tasks", ylabel=label)
    axes.legend(fontsize=8)


def draw(results: dict[str, Any], folder: Path) -> None:
    """Every plot."""
    folder.mkdir(parents=True, exist_ok=True)
    main = next(iter(results["pythons"].values()))
    for name, part, base in (
        ("cost", main["cost"], BASE),
        ("request", main["request"], request.NONE),
    ):
        names = list(part["asyncio"]["times"])
        by_loop = {
            loop: [ratio(part[loop]["times"][n], part[loop]["times"][base]) for n in names]
            for loop in LOOPS
        }
        bars(names, by_loop, f"CPU time, in {base!r}; upper bar {LOOPS[0]}, lower {LOOPS[1]}")
        save(folder, name)

    traced = results["memory"]["traced"]
    bars(
        list(traced),
        {"": [size / traced[memory.BARE] for size in traced.values()]},
        "memory, in bare tasks",
    )
    save(folder, "memory")

    lines(results["scale"]["fill"], "CPU us per task")
    save(folder, "scale")
    lines(results["scale"]["drain"], "CPU us per drained task")
    save(folder, "drain")

    slowest = {name: max(times) * 1e3 for name, times in results["latency"].items()}
    label = "longest call of a def endpoint, milliseconds"
    bars(list(slowest), {"": list(slowest.values())}, label)
    save(folder, "latency")

    by_app = throughput.ratios(results["throughput"])
    label = "CPU time of the server per request, in requests without tasks"
    bars(list(by_app), {"": list(by_app.values())}, label)
    save(folder, "throughput")


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
