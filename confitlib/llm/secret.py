"""A key that can be sent but not seen."""

from __future__ import annotations

from typing import NoReturn

NO_KEY = "local-server-without-a-key"


class Secret:
    """A key that shows itself to nobody: not in a repr, a log line, a pickle or a copy."""

    __slots__ = ("_value",)

    def __init__(self, value: str | None) -> None:
        self._value = value or None

    def __bool__(self) -> bool:
        return self._value is not None

    def __repr__(self) -> str:
        return "Secret(***)" if self else "Secret(None)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not stored")

    def reveal(self) -> str:
        """The key, for the one call that sends it."""
        return self._value or NO_KEY

    def scrub(self, text: str) -> str:
        """A text without the key, should a server have quoted it."""
        return text.replace(self._value, "***") if self._value else text
