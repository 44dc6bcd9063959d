"""Document text inside prompts: fenced so that it stays data, and rid of contact details before it leaves."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from confitlib.llm.requests import Request

START, END = "[The start of the {name}]", "[The end of the {name}]"
OPENING = "[\\[\uff3b\u3010\u3014]"  # square brackets, also full-width ones, as a document may imitate them
MARKER = re.compile(OPENING + r"(?=\s*(?:/\s*)?(?:the\s+)?(?:start|end|beginning)\s+of\b|\s*example\s+resume\b)", re.I)
MASKS = {
    "email": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "url": re.compile(r"(?:https?://|www\.)[^\s<>\"'）】，。]+|\b(?:linkedin|github)\.com/[^\s<>\"'）】，。]+", re.I),
    "phone": re.compile(r"(?<![\w.-])(?:\+|00)?\(?\d(?:[ ().-]{0,3}\d){8,14}(?![\w-])"),
}
NO_PHONE = re.compile(
    r"(?:(?:19|20)\d\d(?:[./-]\d{1,2}){0,2}\D*)+"  # dates and spans of them
    r"|[1-9]\d{3,5} ?- ?[1-9]\d{3,5}"  # a pay range
)


def fence(name: str, text: str) -> str:
    """A document between start and end markers that it cannot close: `[The start of the {name}]`, text, end.

    The markers are those of the official prompt (ConFit-v2, src/utils/convert_by_llm.py).
    """
    return f"{START.format(name=name)}\n{escape(text)}\n{END.format(name=name)}"


def escape(text: str) -> str:
    """A text in which whatever looks like a marker begins with a round bracket instead."""
    return MARKER.sub("(", text)


def leaked(text: str) -> str | None:
    """The first marker of a prompt found in a reply, or None."""
    found = MARKER.search(text)
    return None if found is None else text[found.start() :].splitlines()[0][:40]


def mask(text: str) -> tuple[str, Counter[str]]:
    """A text with e-mail addresses, web addresses and phone numbers as `[email]`, `[url]`, `[phone]`; their counts.

    Phone numbers are runs of 9 to 15 digits with the usual separators; dates and pay ranges are none.
    Masking a masked text changes nothing.
    """
    counts: Counter[str] = Counter()
    for name, pattern in MASKS.items():

        def cover(found: re.Match[str], name: str = name) -> str:
            if name == "phone" and NO_PHONE.fullmatch(found[0]):
                return found[0]
            counts[name] += 1
            return f"[{name}]"

        text = pattern.sub(cover, text)
    return text, counts


def masked(request: Request) -> tuple[Request, Counter[str]]:
    """A request whose messages are masked, and what was covered; `about` and `source` stay as they are."""
    covered = [mask(message["content"]) for message in request.messages]
    counts = sum((count for _, count in covered), Counter[str]())
    if not counts:
        return request, counts
    messages = [{**one, "content": text} for one, (text, _) in zip(request.messages, covered, strict=True)]
    return replace(request, messages=messages), counts
