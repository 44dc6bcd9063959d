"""What is asked of a language model and what came back, named by a fingerprint that knows no endpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from confitlib.text import Language, language_of

Message = Mapping[str, str]
Origin = Literal["recorded", "called"]

CHAT, EMBEDDING = "chat", "embedding"
ROLES = ("system", "user", "assistant")
SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "seed")
REPAIR: dict[Language, str] = {
    "en": "Your reply cannot be used ({problem}). Write it again in full, without that fault and without any comment.",
    "zh": "你的回复不能使用（{problem}）。请避免该问题，重新完整地写一遍，不要附加任何说明。",
}


@dataclass(frozen=True)
class Request:
    """One chat completion: model, messages, sampling parameters (None: the server's default), sample index.

    `sample` tells repeated draws of one prompt apart. `about` (whose document this is) and `source` (its
    text, for the checks) stay on this machine and do not count: requests that differ in them alone are equal.
    Raises ValueError on messages without a known role or text.
    """

    model: str
    messages: Sequence[Message]
    temperature: float | None = None
    max_tokens: int | None = None
    sample: int = 0
    top_p: float | None = None
    stop: Sequence[str] | None = None
    seed: int | None = None
    about: str = field(default="", compare=False)
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        messages = tuple(dict(message) for message in self.messages)
        for number, message in enumerate(messages):
            if set(message) != {"role", "content"} or message["role"] not in ROLES:
                raise ValueError(f"message {number} of a request needs a role of {ROLES} and a content")
        if not messages or not self.model:
            raise ValueError("a request needs a model and at least one message")
        object.__setattr__(self, "messages", messages)
        object.__setattr__(self, "stop", None if self.stop is None else tuple(self.stop))

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def payload(self) -> dict[str, Any]:
        """All that decides the reply, as JSON; parameters left to the server are left out."""
        return {"kind": CHAT, **self.body(), "sample": self.sample}

    def body(self) -> dict[str, Any]:
        """The arguments of the chat-completions endpoint."""
        chosen = {name: getattr(self, name) for name in SAMPLING if getattr(self, name) is not None}
        if "stop" in chosen:
            chosen["stop"] = list(chosen["stop"])
        return {"model": self.model, "messages": [dict(message) for message in self.messages], **chosen}

    def fingerprint(self) -> str:
        """The sha256 of the payload: the same for every endpoint, another for every sample."""
        return fingerprint_of(self.payload())

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any], about: str = "", source: str = "") -> Request:
        """The request that a store or a file of pending requests holds; raises ValueError if it is none."""
        known = {item.name for item in fields(cls)} - {"about", "source"}
        values = {name: value for name, value in payload.items() if name != "kind"}
        if payload.get("kind") != CHAT or set(values) - known or not {"model", "messages"} <= set(values):
            raise ValueError(f"not a chat request: its parameters are {sorted(payload)}")
        return cls(**values, about=about, source=source)


@dataclass(frozen=True)
class EmbeddingRequest:
    """The embedding of one text by a model."""

    model: str
    text: str

    def payload(self) -> dict[str, Any]:
        """All that decides the vector, as JSON."""
        return {"kind": EMBEDDING, "model": self.model, "input": self.text}

    def fingerprint(self) -> str:
        """The sha256 of the payload."""
        return fingerprint_of(self.payload())


@dataclass(frozen=True)
class Usage:
    """Tokens that a call was billed for, as the server counted them."""

    input: int = 0
    output: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.output + other.output)


@dataclass(frozen=True)
class Answer:
    """The usable text for a request, or the problem that leaves it without one.

    `text` is None exactly when `problem` says why. `fingerprint` names the stored reply (the second one
    if the first was `repaired`); `usage` counts every reply to the request, stored or new.
    """

    request: Request
    text: str | None
    problem: str | None
    fingerprint: str
    finish_reason: str | None = None
    usage: Usage = Usage()
    origin: Origin = "recorded"
    repaired: bool = False

    def __post_init__(self) -> None:
        if (self.text is None) == (self.problem is None):
            raise ValueError("an answer has a text or a problem")


Check = Callable[[Request, str], str | None]


def prompt(text: str) -> list[Message]:
    """The messages of a prompt in one turn."""
    return [{"role": "user", "content": text}]


def repair(request: Request, reply: str, problem: str) -> Request:
    """The request to write a reply again: the conversation so far, and what was wrong with it."""
    said = [{"role": "assistant", "content": reply}] if reply.strip() else []
    language = language_of(str(request.messages[-1]["content"]))
    ask = {"role": "user", "content": REPAIR[language].format(problem=problem)}
    return replace(request, messages=[*request.messages, *said, ask])


def fingerprint_of(payload: Mapping[str, Any]) -> str:
    """The sha256 of a request's payload in one canonical spelling."""
    canonical = json.dumps(payload, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
