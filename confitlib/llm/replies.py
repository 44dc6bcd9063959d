"""Reading what a server sent, and judging whether it can be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from confitlib.llm.requests import Check, Request, Usage
from confitlib.llm.store import Entry

REFUSED, CUT = "refused", "cut off at the token limit"


class MalformedReply(ValueError):
    """A response with status 200 that holds no reply."""


def parse_object(body: str) -> dict[str, Any]:
    """The JSON object of a response body; raises MalformedReply."""
    try:
        content = json.loads(body)
    except ValueError as error:
        raise MalformedReply("malformed reply: not JSON") from error
    if not isinstance(content, dict):
        raise MalformedReply("malformed reply: not a JSON object")
    return content


def read_chat(content: Mapping[str, Any]) -> Entry:
    """What a store keeps of a chat completion; raises MalformedReply if there is no choice or no message."""
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedReply("malformed reply: no choices")
    message = choices[0].get("message")
    text = message.get("content") if isinstance(message, dict) else 0
    if not isinstance(message, dict) or not (text is None or isinstance(text, str)):
        raise MalformedReply("malformed reply: no message")
    refusal = message.get("refusal")
    return {
        "text": storable(text or ""),
        "finish_reason": choices[0].get("finish_reason"),
        "refusal": None if refusal is None else storable(str(refusal)),
        "usage": read_usage(content),
        "served_by": content.get("model"),
    }


def storable(text: str) -> str:
    """A text with a question mark for each half of a broken emoji, which no file in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def read_usage(content: Mapping[str, Any]) -> dict[str, int]:
    """The billed tokens of a response as the store keeps them; zero where the server counts none."""
    usage = content.get("usage") or {}
    return {"input": usage.get("prompt_tokens") or 0, "output": usage.get("completion_tokens") or 0}


def usage_of(entry: Entry) -> Usage:
    """The billed tokens of a stored reply."""
    usage = entry.get("usage") or {}
    return Usage(usage.get("input", 0), usage.get("output", 0))


def judge(request: Request, entry: Entry, check: Check | None) -> str | None:
    """What keeps a reply from being used, or None. Before any colon stands the kind of problem."""
    text = entry.get("text", "").strip()
    if entry.get("refusal") or entry.get("finish_reason") == "content_filter":
        return f"{REFUSED}: {entry.get('refusal') or 'content filter'}"
    if not text:
        return "empty reply"
    if entry.get("finish_reason") == "length":
        return CUT
    return check(request, text) if check is not None else None


def repairable(problem: str) -> bool:
    """Whether asking once more can help; a refusal stands."""
    return not problem.startswith(REFUSED)
