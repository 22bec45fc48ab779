"""What can be set from outside, by environment variables."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """The shop's settings.

    Attributes:
        data: `SHOP_DATA`, a folder to keep the data in; unset, it is temporary.
        smtp_url: `SMTP_URL`, such as `smtps://user:password@mail.example.org`; unset, the
            shop starts a mail server of its own.
        charge_seconds: `SHOP_CHARGE_SECONDS`, seconds that the payment gateway takes; 0.25.
        grace_period: `SHOP_GRACE_PERIOD`, seconds that a shutdown waits for tasks which
            are not shielded; 5.
    """

    data: Path | None
    smtp_url: str | None
    charge_seconds: float
    grace_period: float

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the settings; an empty variable counts as unset."""
        data = os.environ.get("SHOP_DATA")
        return cls(
            data=Path(data) if data else None,
            smtp_url=os.environ.get("SMTP_URL") or None,
            charge_seconds=float(os.environ.get("SHOP_CHARGE_SECONDS") or 0.25),
            grace_period=float(os.environ.get("SHOP_GRACE_PERIOD") or 5),
        )
