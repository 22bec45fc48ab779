"""The app: what it opens at start-up, its tasks, its routes."""

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

from fastapi import FastAPI

from fastapi_tasks import add_tasks
from shop.database import Database
from shop.journal import Journal
from shop.mail import Mailer, mail_server
from shop.pages import PageCache
from shop.payments import Payments
from shop.resources import Resources
from shop.routes import home, images, orders, products, timeline, users
from shop.settings import Settings
from shop.timeline import Timeline, TimelineMiddleware

# Shutdown logs what became of the tasks; uvicorn shows only its own loggers by default.
logging.basicConfig(format="%(levelname)s: %(message)s")
logging.getLogger("taskcore").setLevel(logging.INFO)

settings = Settings.from_environment()
recorder = Timeline()


class State(TypedDict):
    """What the lifespan gives to each request, as `request.state`."""

    resources: Resources


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[State]:
    """Open what endpoints and tasks use; every task has ended before it is closed again."""
    async with AsyncExitStack() as stack:
        folder = settings.data or Path(stack.enter_context(TemporaryDirectory(prefix="shop-")))
        folder.mkdir(parents=True, exist_ok=True)
        database = Database(folder / "shop.sqlite")
        if settings.smtp_url:
            mailbox, smtp_url = None, settings.smtp_url
        else:
            mailbox = folder / "mailbox"
            smtp_url = await stack.enter_async_context(mail_server(mailbox))
        resources = Resources(
            database=database,
            mailer=Mailer(smtp_url),
            mailbox=mailbox,
            payments=Payments(database, settings.charge_seconds),
            images=folder,
            pages=PageCache(),
            analytics=Journal(folder / "analytics.jsonl"),
            audit=Journal(folder / "audit.jsonl"),
            timeline=recorder,
        )
        yield {"resources": resources}


app = FastAPI(title="Shop", lifespan=lifespan)
add_tasks(app, grace_period=settings.grace_period, observers=[recorder.observe])
app.add_middleware(TimelineMiddleware)
for routes in (home, users, orders, images, products, timeline):
    app.include_router(routes.router)
