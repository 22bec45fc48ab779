"""What endpoints ask for in their parameters, and hand on to their tasks."""

import sqlite3
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from shop.database import Database
from shop.journal import Journal
from shop.mail import Mailer
from shop.pages import PageCache
from shop.payments import Payments
from shop.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Resources:
    """What lives as long as the app.

    `images` is the folder that they are in, `mailbox` the Maildir of the shop's own mail
    server, or `None` if mails go to another one.
    """

    database: Database
    mailer: Mailer
    mailbox: Path | None
    payments: Payments
    images: Path
    pages: PageCache
    analytics: Journal
    audit: Journal
    timeline: Timeline


def get_resources(request: Request) -> Resources:
    """Return what the lifespan opened."""
    resources: Resources = request.state.resources
    return resources


Shop: TypeAlias = Annotated[Resources, Depends(get_resources)]


def begin_transaction(shop: Shop) -> Generator[sqlite3.Connection]:
    """Commit when the endpoint has returned, roll back if it raised."""
    with shop.database.transaction() as connection:
        yield connection


Transaction: TypeAlias = Annotated[sqlite3.Connection, Depends(begin_transaction, scope="function")]
"""A transaction that ends before `after_route` tasks start and before the response is sent."""
