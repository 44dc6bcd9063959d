"""Checks of replies that every task shares; each says what is wrong with a reply, or None."""

from __future__ import annotations

from confitlib.llm.requests import Check, Request
from confitlib.llm.safety import leaked
from confitlib.text import language_of

SHINGLE = 5


def all_of(*checks: Check) -> Check:
    """The first fault that any of several checks finds."""

    def check(request: Request, text: str) -> str | None:
        return next((fault for one in checks if (fault := one(request, text))), None)

    return check


def not_empty(request: Request, text: str) -> str | None:
    """A reply has text."""
    return None if text.strip() else "empty reply"


def no_markers(request: Request, text: str) -> str | None:
    """A reply holds no marker of the prompt."""
    found = leaked(text)
    return f"leaked marker: {found}" if found else None


def same_language(request: Request, text: str) -> str | None:
    """A reply is in the language of the document it is about (skipped without `source`)."""
    wanted, found = language_of(request.source), language_of(text)
    return f"wrong language: {found} instead of {wanted}" if request.source and wanted != found else None


def length(minimum: int = 20, maximum: int = 20_000) -> Check:
    """A reply has between `minimum` and `maximum` characters (our choice)."""

    def check(request: Request, text: str) -> str | None:
        size = len(text.strip())
        fault = "too short" if size < minimum else "too long" if size > maximum else None
        return fault and f"{fault}: {size} characters, {minimum} to {maximum} expected"

    return check


def no_copy(share: float = 0.8) -> Check:
    """A reply is new text: less than `share` of its word runs (five long) stand in `source` (our choice)."""

    def check(request: Request, text: str) -> str | None:
        own = _shingles(text)
        copied = len(own & _shingles(request.source)) / len(own) if own else 0.0
        return f"copy of the input: {copied:.0%} of it" if copied >= share else None

    return check


def _shingles(text: str) -> set[tuple[str, ...]]:
    """Runs of five words, or of five characters in Chinese text; a shorter text is one run."""
    pieces = list("".join(text.split())) if language_of(text) == "zh" else text.lower().split()
    return {tuple(pieces[i : i + SHINGLE]) for i in range(max(len(pieces) - SHINGLE + 1, 1))} if pieces else set()


common = all_of(not_empty, no_markers, same_language, length(), no_copy())
