"""Kinds of input that several endpoints take; what does not fit is answered with 422."""

from typing import Annotated, TypeAlias

from pydantic import Field, StringConstraints

Id: TypeAlias = Annotated[int, Field(ge=1, lt=2**63)]
"""A number that SQLite can hold as a primary key."""

Text: TypeAlias = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$"
    ),
]
"""One line for people to read, not empty."""

_WORDS = r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*"

Email: TypeAlias = Annotated[
    str, StringConstraints(max_length=254, pattern=rf"^{_WORDS}@{_WORDS}\.[A-Za-z]+$")
]
"""A mail address, of the kinds that are in use."""
