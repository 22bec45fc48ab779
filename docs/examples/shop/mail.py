"""Mail over SMTP, and a mail server for those who have none at hand."""

import asyncio
import mailbox
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiosmtplib
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP


class Mailer:
    """Sends mails to the server at `url`, as in `smtp://user:password@host:port`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname
        self._port = parts.port
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._use_tls = parts.scheme == "smtps"

    async def send_welcome(self, name: str, email: str) -> None:
        """Greet a new user."""
        message = EmailMessage()
        message["From"] = "shop@example.org"
        message["To"] = email
        message["Subject"] = "Welcome to the shop"
        message.set_content(f"Hello {name},\n\nwe are glad that you are here.\n")
        await aiosmtplib.send(
            message,
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._use_tls,
        )


@asynccontextmanager
async def mail_server(folder: Path) -> AsyncGenerator[str]:
    """Receive mails on a free port, keep them in the Maildir `folder`, give the server's URL."""
    loop = asyncio.get_running_loop()
    handler = Mailbox(folder)
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="localhost", loop=loop), "127.0.0.1", 0
    )
    with closing(server):
        yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def read_mailbox(folder: Path) -> list[EmailMessage]:
    """Return the mails of a Maildir, oldest first."""
    box = mailbox.Maildir(folder)
    # The keys begin with the time of arrival.
    return [
        message_from_bytes(box.get_bytes(key), _class=EmailMessage, policy=policy.default)
        for key in sorted(box.keys())
    ]
