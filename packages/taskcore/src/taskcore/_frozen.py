"""Frozen classes: their values do not change, and are compared, hashed and shown by field.

To `dataclasses` they are frozen dataclasses: `is_dataclass`, `fields`, `replace` and `asdict`
take them. But its decorator writes and compiles six methods for each class, which took a
sixth of `import asyncio` for those of taskcore (promise C4). Here all classes share their
methods, and `dataclasses` is loaded by whoever asks it. See docs/design.md#import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NoReturn,
    TypeAlias,
    TypeVar,
    cast,
    dataclass_transform,
)

T = TypeVar("T")
_State: TypeAlias = dict[str, Any] | None

set_field = object.__setattr__
"""Set a field of a value that is being made: `set_field(self, "name", value)`."""


@dataclass_transform(frozen_default=True)
def frozen(*, slots: bool) -> Callable[[type[T]], type[T]]:
    """Make of a class without bases what `@dataclass(frozen=True, slots=slots)` would make.

    Args:
        slots: Whether the fields, which are the annotations without an underscore, are slots.
            If not, the default of a field is also an attribute of the class.
    """

    def make(written: type[T]) -> type[T]:
        members = dict(vars(written))
        del members["__dict__"], members["__weakref__"]  # those of `written` alone
        fields = tuple(name for name in written.__annotations__ if not name.startswith("_"))
        defaults = {name: members[name] for name in fields if name in members}
        if slots:
            for name in defaults:
                del members[name]
            members["__slots__"] = fields
        members |= {"__match_args__": fields, "_defaults": defaults}
        members |= {"__dataclass_fields__": _Fact(), "__dataclass_params__": _Fact()}
        return cast("type[T]", type(written.__name__, (Frozen,), members))

    return make


def replace(value: T, **changes: Any) -> T:
    """The same value with `changes`, as `dataclasses.replace` makes it."""
    return cast("T", cast("Frozen", value).__replace__(**changes))


class Frozen:
    """What the classes share that `frozen` makes."""

    __slots__ = ()
    if TYPE_CHECKING:  # whoever reads annotations at run time would take these for fields
        __match_args__: ClassVar[tuple[str, ...]]  # the fields, in order
        _defaults: ClassVar[dict[str, Any]]

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self.__match_args__
        every: Iterable[Any] = values
        if named or len(values) != len(fields):  # else the fast way
            every = self._complete(values, named)
        for field, value in zip(fields, every, strict=True):
            set_field(self, field, value)
        self.__post_init__()

    def _complete(self, values: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        fields = self.__match_args__
        first = dict(zip(fields, values, strict=False))
        given = self._defaults | first | named
        if len(values) > len(fields) or first.keys() & named.keys() or given.keys() ^ fields:
            raise TypeError(
                f"cannot make {type(self).__name__} of {len(values)} positional values and "
                f"{list(named)}; pass {', '.join(fields)}, each once"
            )
        return [given[field] for field in fields]

    def __post_init__(self) -> None:
        """Where a class checks its values."""

    def __repr__(self) -> str:
        values = (f"{field}={value!r}" for field, value in self._as_dict().items())
        return f"{type(self).__qualname__}({', '.join(values)})"

    def __eq__(self, other: Any) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(self._as_dict() == other._as_dict())

    def __hash__(self) -> int:
        return hash(tuple(self._as_dict().values()))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _dataclasses().FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise _dataclasses().FrozenInstanceError(f"cannot delete field {name!r}")

    def __setstate__(self, state: _State | tuple[_State, ...]) -> None:
        # Copy and pickle would assign. Of a class with slots the state is a pair.
        for part in state if isinstance(state, tuple) else (state,):
            for name, value in (part or {}).items():
                set_field(self, name, value)

    def __replace__(self, /, **changes: Any) -> Any:
        # `copy.replace` calls it, from Python 3.13 on.
        return type(self)(**(self._as_dict() | changes))

    def _as_dict(self) -> dict[str, Any]:
        return {field: getattr(self, field) for field in self.__match_args__}


class _Fact:
    """What `dataclasses` would have noted in a class, found out when it is first asked for."""

    def __set_name__(self, owner: type[Frozen], name: str) -> None:
        self._owner = owner
        self._name = name

    def __get__(self, instance: object, kind: type) -> Any:
        owner = self._owner
        names = ("__module__", "__annotations__")
        members = {name: getattr(owner, name) for name in names} | owner._defaults
        written = _dataclasses().dataclass(frozen=True)(type(owner.__name__, (), members))
        fact = getattr(written, self._name)
        setattr(owner, self._name, fact)
        return fact


def _dataclasses() -> Any:
    return importlib.import_module("dataclasses")
