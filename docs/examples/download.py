"""Download files, sixteen at a time. Ctrl-C keeps those that have arrived.

The standard input has their names. To try it:

    python -m http.server --directory photos
    ls photos | python docs/examples/download.py http://127.0.0.1:8000 copies
"""

import asyncio
import sys
from pathlib import Path

import aiohttp
from rich.progress import Progress

from taskcore import Task, TaskConfig, TaskEvent, TaskScope, TaskState, current_scope


async def download(session: aiohttp.ClientSession, name: str, folder: Path) -> None:
    """Get one file, and see to it that it is kept."""
    async with session.get(f"/{name}") as response:
        response.raise_for_status()
        content = await response.read()
    scope = current_scope()
    await scope.wait_for_room("disk")
    keeping = scope.task(name=f"keeping {name}", shield=True, lane="disk")
    keeping.schedule(keep, folder / Path(name).name, content)


def keep(path: Path, content: bytes) -> None:
    """Write a file, which is there as a whole or not at all. It runs in a thread."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


async def run(url: str, folder: Path, names: list[str]) -> int:
    """Download everything; return how many files are missing."""
    with Progress() as progress:
        bar = progress.add_task("files", total=len(names))
        missing = len(names)

        def count(event: TaskEvent) -> None:
            nonlocal missing
            if event.task.func is keep and event.task.state is TaskState.SUCCEEDED:
                missing -= 1
                progress.advance(bar)

        def complain(task: Task[..., None], error: BaseException) -> None:
            progress.print(f"{task.name} failed: {error!r}")

        async with (
            aiohttp.ClientSession(url) as session,
            TaskScope(
                limit=16,
                backlog=16,
                lanes={"disk": 2},
                grace_period=0.0,
                observers=[count],
                config=TaskConfig(on_error=complain),
            ) as scope,
        ):
            for name in names:
                await scope.wait_for_room()
                scope.task(name=name).schedule(download, session, name, folder)
    return missing


def main(url: str, folder: Path) -> int:
    """Return the exit code: 0 if every file is there, 1 if not, 130 after Ctrl-C."""
    names = sys.stdin.read().split()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return 1 if asyncio.run(run(url, folder, names)) else 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
