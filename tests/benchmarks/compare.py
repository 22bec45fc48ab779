"""What each way to run background tasks does in a FastAPI application: the table of README.md.

Run as `python -m tests.benchmarks.compare`; prints the Markdown table. Every cell is
tried, in a process of its own: an application with one endpoint is started, gets
requests and is stopped, by the ASGI messages that a server sends. A dash stands where a
library has no call for what is asked.
"""

from __future__ import annotations

import os
import subprocess

from tests.benchmarks.environments import FASTAPI_TASKS, PEERS, ROOT, make, variables
from tests.benchmarks.tables import markdown_table

NAMES = {
    "background": "FastAPI's `BackgroundTasks`",
    "peer": "fastapi-tasks 0.1.0 on PyPI",
    "aiojobs": "aiojobs 1.4",
    "group": "`asyncio.TaskGroup`",
    "ours": "this project",
}
QUESTIONS = {
    "now": "A task starts while the endpoint goes on",
    "after_route": "… after the endpoint, before the first byte",
    "after_response": "… after the response",
    "committed": "… and after a `yield` dependency has committed",
    "harmless": "A task that raises harms no other",
    "exits": "… even one that raises `SystemExit`",
    "reaches": "… or, where that is wanted, cancels the others and reaches their owner",
    "result": "`schedule` returns a handle that gives the result",
    "cancels": "… and can be cancelled",
    "limited": "There can be a limit on the tasks that run at once",
    "plain": "Plain functions run in a thread",
    "crowd": "… and a hundred stuck ones do not hold up `def` endpoints",
    "from_thread": "A task can be scheduled from a thread of one's own",
    "refused": "Wrong arguments are refused at the call",
    "finishes": "At shutdown a running task may finish, before the lifespan's teardown",
    "cleaned_up": "A shielded task outlives the clean-up of the loop (a second Ctrl-C)",
    "bounded": "Shutdown ends although a task swallows its cancellation",
    "stuck": "… or is stuck in a thread, and the process can end",
}
HANGS = 15.0  # seconds after which a process counts as hung; nothing that ends takes a third of it
ENDS_THE_PROCESS = "exits"  # the question on which a process may end without an answer


def cell(python: str, question: str, peer: str) -> str:
    """Ask in a process of its own; one that does not end is a no."""
    environment = variables()
    if peer == "ours":
        environment["PYTHONPATH"] = f"{FASTAPI_TASKS}{os.pathsep}{environment['PYTHONPATH']}"
    command = [python, "-m", "tests.benchmarks.compare_cells", question, peer]
    try:
        process = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANGS
        )
    except subprocess.TimeoutExpired:
        return "no"
    answer = process.stdout.strip()
    if not answer and question != ENDS_THE_PROCESS:
        raise RuntimeError(f"{question} of {peer} gave no answer:\n{process.stderr}")
    return answer or "no"


def main() -> None:
    """Print the table."""
    python = make("peers", PEERS)
    rows = [["", *NAMES.values()]]
    for question, title in QUESTIONS.items():
        rows.append([title, *(cell(python, question, peer) for peer in NAMES)])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
