"""What is asked of a language model and what came back: requests, replies and their checks, files of both."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from confitlib.text import Language, language_of
from confitlib.util import atomic, made_of, numbered_entries, read_yaml

if TYPE_CHECKING:
    from confitlib.llm.store import Store

Message = Mapping[str, str]
Entry = dict[str, Any]

BATCH_URL = "/v1/chat/completions"
REPAIR: dict[Language, str] = read_yaml(Path(__file__).with_name("repair.yaml"), dict)  # what a repair asks for
REFUSED, CUT = "refused", "cut off at the token limit"
SHORTEST, LONGEST, COPIED, RUN = 20, 20_000, 0.8, 5

OPENING = "[\\[\uff3b\u3010\u3014]"  # square brackets, also full-width ones, as a document may imitate them
MARKER = re.compile(OPENING + r"(?=\s*(?:/\s*)?(?:the\s+)?(?:start|end|beginning)\s+of\b|\s*example\s+resume\b)", re.I)
# no longer name than that (RFC 5321), else text without spaces takes for ever
EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+")
URL = re.compile(r"(?:https?://|www\.)[^\s<>\"'）】，。]+|\b(?:linkedin|github)\.com/[^\s<>\"'）】，。]+", re.I)
PHONE = re.compile(r"(?<![\w.-])(?:\+|00)?\(?\d(?:[ ().-]{0,3}\d){8,14}(?![\w-])")
# dates and spans of them, or a pay range
NO_PHONE = re.compile(r"(?:(?:19|20)\d\d(?:[./-]\d{1,2}){0,2}\D*)+|[1-9]\d{3,5} ?- ?[1-9]\d{3,5}")


@dataclass(frozen=True)
class Request:
    """One chat completion: model, messages, sampling parameters (None: the server's default), sample index.

    `sample` tells repeated draws of one prompt apart. `about` (whose document this is) and `source` (its
    text, for the checks) stay on this machine and do not count: requests that differ in them alone are equal.
    """

    model: str
    messages: Sequence[Message]
    temperature: float | None = None
    max_tokens: int | None = None
    sample: int = 0
    about: str = field(default="", compare=False)
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(dict(message) for message in self.messages))

    def body(self) -> dict[str, Any]:
        """The arguments of the chat-completions endpoint; parameters left to the server are left out."""
        sampling = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        sampling = {name: value for name, value in sampling.items() if value is not None}
        return {"model": self.model, "messages": list(self.messages), **sampling}

    def payload(self) -> dict[str, Any]:
        """All that decides the reply, as JSON."""
        return {"kind": "chat", **self.body(), "sample": self.sample}

    def fingerprint(self) -> str:
        """The sha256 of the payload: the same for every endpoint, another for every sample."""
        return fingerprint_of(self.payload())

    def repair(self, reply: str, problem: str) -> Request | None:
        """The request to write a reply again: the conversation so far, and its problem. None: a refusal stands."""
        if problem.startswith(REFUSED):
            return None
        answer = [{"role": "assistant", "content": reply}] if reply.strip() else []
        complaint = REPAIR[language_of(self.messages[-1]["content"])].format(problem=problem)
        return replace(self, messages=[*self.messages, *answer, *prompt(complaint)])


@dataclass(frozen=True)
class EmbeddingRequest:
    """The embedding of one text by a model."""

    model: str
    text: str

    def payload(self) -> dict[str, Any]:
        """All that decides the vector, as JSON."""
        return {"kind": "embedding", "model": self.model, "input": self.text}

    def fingerprint(self) -> str:
        """The sha256 of the payload."""
        return fingerprint_of(self.payload())


def fingerprint_of(payload: Mapping[str, Any]) -> str:
    """The sha256 of a request's payload in one canonical spelling."""
    canonical = json.dumps(payload, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def prompt(text: str) -> list[Message]:
    """The messages of a prompt in one turn."""
    return [{"role": "user", "content": text}]


# Documents inside prompts: fenced so that they stay data, and rid of contact details before they leave.


def fence(name: str, text: str) -> str:
    """A document between start and end markers that it cannot close: `[The start of the {name}]`, text, end.

    The markers are those of the official prompt (ConFit-v2, src/utils/convert_by_llm.py).
    """
    return f"[The start of the {name}]\n{escape(text)}\n[The end of the {name}]"


def escape(text: str) -> str:
    """A text in which whatever looks like a marker begins with a round bracket instead."""
    return MARKER.sub("(", text)


def mask(text: str) -> str:
    """A text with e-mail addresses, web addresses and phone numbers as `[email]`, `[url]`, `[phone]`.

    Phone numbers are runs of 9 to 15 digits with the usual separators; dates and pay ranges are none.
    Masking a masked text changes nothing.
    """
    text = URL.sub("[url]", EMAIL.sub("[email]", text))
    return PHONE.sub(lambda match: match[0] if NO_PHONE.fullmatch(match[0]) else "[phone]", text)


# Replies, and what is wrong with them. The words of a problem stand in the repair request, so they decide its
# fingerprint: to change them is to pay for every repair again.

Check = Callable[[Request, str], str | None]  # what is wrong with a reply to a request, or None


@dataclass(frozen=True)
class Usage:
    """Tokens that a call was billed for, as the server counted them."""

    input: int = 0
    output: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.output + other.output)


def read_chat(content: Any) -> Entry:
    """What a store keeps of a chat completion; raises ValueError if there is no choice with a message in it."""
    try:
        choice = content["choices"][0]
        text, refusal = (choice["message"].get(name) for name in ("content", "refusal"))
        if not choice["message"].keys() & {"content", "refusal"}:
            raise LookupError
        text = (text or "").encode("utf-8", "replace").decode()
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("no choice with a message of text") from error
    refusal = None if refusal is None else storable(str(refusal))
    entry = {"text": text, "finish_reason": storable(choice.get("finish_reason")), "refusal": refusal}
    return {**entry, "usage": read_usage(content), "served_by": storable(content.get("model"))}


def read_vectors(content: Any, n: int) -> list[Entry]:
    """An entry of the store for each of the `n` texts of an embeddings response; raises ValueError if it is none."""
    try:
        rows = sorted(content["data"], key=lambda row: row["index"])
        if [row["index"] for row in rows] != list(range(n)):
            raise LookupError
        vectors = np.array([row["embedding"] for row in rows], dtype="<f4")  # exact, a third of the size in decimals
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("no embeddings") from error
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"embeddings of shape {list(vectors.shape)} for {n} texts")
    codes, served_by = [base64.b64encode(vector).decode() for vector in vectors], storable(content.get("model"))
    usages = [read_usage(content)] + [{}] * (n - 1)  # the server counts tokens by call, not by text
    return [{"vector": codes[i], "usage": usages[i], "served_by": served_by} for i in range(n)]


def storable(text: Any) -> Any:
    """A text with a question mark for each half of a broken emoji, which UTF-8 cannot hold; None if it is no text."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else None


def read_usage(content: Mapping[str, Any]) -> dict[str, int | None]:
    """The billed tokens in a response, or in an entry of a store; None where the server gives no number from 0 up."""
    usage = content["usage"] if isinstance(content.get("usage"), dict) else {}
    spellings = {"input": "prompt_tokens", "output": "completion_tokens"}
    counts = {name: usage.get(spelling, usage.get(name)) for name, spelling in spellings.items()}
    return {name: int(n) if isinstance(n, int | float) and 0 <= n < 1e15 else None for name, n in counts.items()}


def usage_of(entry: Entry) -> Usage:
    """The billed tokens of a stored reply; what is unknown counts as none."""
    return Usage(*(count or 0 for count in read_usage(entry).values()))


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


def common(request: Request, text: str) -> str | None:
    """What every task asks of a reply: text without markers of the prompt, in the language of `source`, and new.

    Its length is 20 to 20,000 characters, and less than 80 % of its runs of five words stand in `source` (our choice).
    """
    size, expected, language = len(text.strip()), language_of(request.source), language_of(text)
    if marker := MARKER.search(text):
        return f"leaked marker: {text[marker.start() :].splitlines()[0][:40]}"
    if request.source and language != expected:
        return f"wrong language: {language} instead of {expected}"
    if not SHORTEST <= size <= LONGEST:
        fault = "too short" if size < SHORTEST else "too long"
        return f"{fault}: {size} characters, {SHORTEST} to {LONGEST} expected"
    tokens = [list("".join(one.split())) if language == "zh" else one.lower().split() for one in (text, request.source)]
    here, there = map(runs, tokens)
    copied = len(here & there) / len(here)
    return f"copy of the input: {copied:.0%} of it" if copied >= COPIED else None


def runs(tokens: Sequence[str], size: int = RUN) -> set[tuple[str, ...]]:
    """The runs of `size` tokens; fewer tokens are one run, none are no run."""
    return {tuple(tokens[i : i + size]) for i in range(max(len(tokens) - size + 1, 1))} if tokens else set()


@dataclass(frozen=True)
class Answer:
    """The usable text for a request, or the problem that leaves it without one.

    `text` is None exactly when `problem` says why; `repaired`: the text is the second reply, the first was at fault.
    """

    request: Request
    text: str | None
    problem: str | None = None
    repaired: bool = False


# Files of requests that wait for an answer, and of answers: for whoever has a model elsewhere.


def write_requests(path: Path, task: str, requests: Iterable[Request], batch: bool = False) -> int:
    """Write requests as JSON lines of fingerprint, task, about, source (masked) and payload; returns how many.

    `batch`: write, instead, the input file of OpenAI's Batch API, with the fingerprint as `custom_id`.
    """
    named = {request.fingerprint(): request for request in requests}
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for name, one in named.items():
            line = {"fingerprint": name, "task": task, "about": one.about, "source": mask(one.source), **one.payload()}
            if batch:
                line = {"custom_id": name, "method": "POST", "url": BATCH_URL, "body": one.body()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(named)


def read_requests(path: Path) -> dict[str, tuple[str, Request]]:
    """The task and request of each line by fingerprint; raises ValueError naming file and line for an altered one."""
    requests = {}
    for number, line in numbered_entries(path).items():
        name, task, kind = (str(line.pop(key, "")) for key in ("fingerprint", "task", "kind"))
        request = made_of(Request, line, f"{path}, line {number}: not a request", "Write the file anew.")
        if kind != "chat" or request.fingerprint() != name:
            raise ValueError(f"{path}, line {number}: altered, as the fingerprint shows. Write the file anew.")
        requests[name] = task, request
    return requests


def import_answers(
    store: Store, requests: Mapping[str, tuple[str, Request]], path: Path, check_of: Callable[[str], Check]
) -> tuple[int, int, list[str]]:
    """Take a file of answers into a store, each checked by its task, and at most once.

    Lines are {fingerprint, text[, model, usage, finish_reason]}, or those of an output file of the Batch API.
    Returns how many were taken, how many were there already, and for each other line what is wrong with it.
    """
    taken, there, rejected = 0, 0, []
    for number, line in numbered_entries(path).items():
        name = str(line.get("custom_id", line.get("fingerprint")))
        if name in store:
            there += 1
            continue
        task, request = requests.get(name, ("", None))
        try:
            entry = _read_answer(line)
            problem = judge(request, entry, check_of(task)) if request else "no request waits for this fingerprint"
        except ValueError as error:
            problem = str(error)
        if problem or request is None:
            about = f" ({request.about})" if request and request.about else ""
            rejected.append(f"{path}, line {number}{about}: {problem}")
        else:
            store.add(request, **entry)
            taken += 1
    return taken, there, rejected


def _read_answer(line: Mapping[str, Any]) -> Entry:
    """The reply in a line of answers; raises ValueError, in the server's words if it gave any, where there is none."""
    if "custom_id" not in line:
        choice = {"message": {"content": line.get("text")}, "finish_reason": line.get("finish_reason", "stop")}
        return {**read_chat({**line, "choices": [choice]}), "origin": "import"}
    response, fault = line.get("response"), line.get("error")
    body = response.get("body") if isinstance(response, dict) else None
    try:
        return {**read_chat(body), "origin": "batch"}
    except ValueError as error:
        fault = fault or (body.get("error") if isinstance(body, dict) else None)
        raise ValueError((isinstance(fault, dict) and fault.get("message")) or str(fault or error)) from error
