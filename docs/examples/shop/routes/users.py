"""Users, and the mail that welcomes them after the response."""

import sqlite3

from fastapi import APIRouter, HTTPException, status
from pydantic import BaseModel

from fastapi_tasks import Tasks
from shop.fields import Email, Id, Text
from shop.mail import read_mailbox
from shop.resources import Shop, Transaction

router = APIRouter(tags=["users"])


class NewUser(BaseModel):
    """Who wants to buy."""

    name: Text
    email: Email


class User(NewUser):
    """A user in the database."""

    id: Id


class Mail(BaseModel):
    """A mail that the shop's own mail server got."""

    to: str
    subject: str
    text: str


@router.post("/users", status_code=status.HTTP_201_CREATED)
def create_user(user: NewUser, db: Transaction, shop: Shop, tasks: Tasks) -> User:
    """Store a user. The mail is sent after the response, so nobody waits for it."""
    try:
        row = db.execute(
            "INSERT INTO users (name, email) VALUES (:name, :email) RETURNING *", user.model_dump()
        ).fetchone()
    except sqlite3.IntegrityError:
        raise HTTPException(409, f"there is a user with the address {user.email}") from None
    tasks.after_response.task(name="welcome mail").schedule(
        shop.mailer.send_welcome, user.name, user.email
    )
    return User.model_validate(dict(row))


@router.get("/mailbox")
def show_mailbox(shop: Shop) -> list[Mail]:
    """List the mails that have arrived."""
    if shop.mailbox is None:
        raise HTTPException(404, "mails go to the server at SMTP_URL; unset it to read them here")
    return [
        Mail(to=mail["To"], subject=mail["Subject"], text=mail.get_content())
        for mail in read_mailbox(shop.mailbox)
    ]
