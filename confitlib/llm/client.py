"""The client of any OpenAI-compatible endpoint: nothing paid twice, nothing answered lost; what calls cost."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from confitlib.llm.requests import (
    REFUSED,
    Answer,
    Check,
    EmbeddingRequest,
    Entry,
    Request,
    Usage,
    judge,
    mask,
    masked,
    read_chat,
    read_usage,
    repair,
    storable,
    usage_of,
)
from confitlib.llm.store import Store
from confitlib.util import check_range, read_yaml

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")

KEY_VARIABLE, URL_VARIABLE, MODEL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL", "CONFIT_LLM_MODEL"
PRICES_VARIABLE, PRICES = "CONFIT_PRICES", Path(__file__).with_name("prices.yaml")
DEFAULT_MODEL = "gpt-4o-mini"  # the paper's
NO_KEY = "local-server-without-a-key"
TRIES = 3  # of a call whose response holds no reply
EMBEDDING_BATCH = 64
BYTES_PER_TOKEN, TOKENS_PER_MESSAGE, ASSUMED_OUTPUT = 3, 8, 1024
REMEDY = (
    f"Set {KEY_VARIABLE}, or {URL_VARIABLE} to a local server such as `transformers serve`; "
    "or use the offline writer, which needs no language model."
)


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens; a call in a batch costs the share `batch` of that."""

    input: float
    output: float
    batch: float = 1.0
    source: str = ""

    def __post_init__(self) -> None:
        check_range(self, "input", "output", "batch")

    def cost(self, usage: Usage, batch: bool = False) -> float:
        """US dollars for the tokens of calls."""
        full = (usage.input * self.input + usage.output * self.output) / 1e6
        return full * (self.batch if batch else 1.0)


def load_prices(path: str | Path | None = None) -> dict[str, Price]:
    """The shipped price table, with the entries of `path` (or of the file in CONFIT_PRICES) on top.

    Raises ValueError naming file and model for an entry that is no price.
    """
    prices = {}
    own = path or os.environ.get(PRICES_VARIABLE)
    for file in (PRICES, *([own] if own else [])):
        for model, entry in read_yaml(file, dict).items():
            try:
                prices[str(model)] = Price(**entry)
            except (TypeError, ValueError) as error:
                remedy = "Give input and output in dollars per million tokens."
                raise ValueError(f"{file}, {model}: {error}. {remedy}") from error
    return prices


def estimate_usage(request: Request | EmbeddingRequest) -> Usage:
    """The tokens a call may use: the estimated prompt, and `max_tokens` (1,024 where none is set) of reply.

    A prompt is estimated high, at one token per three UTF-8 bytes (our choice): a third too many for English.
    """
    if isinstance(request, EmbeddingRequest):
        return Usage(-(-len(request.text.encode()) // BYTES_PER_TOKEN))
    sizes = [len(message["content"].encode()) for message in request.messages]
    tokens = sum(-(-size // BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE for size in sizes)
    return Usage(tokens, ASSUMED_OUTPUT if request.max_tokens is None else request.max_tokens)


@dataclass(frozen=True)
class Estimate:
    """A dry run: the calls that are still to make, their tokens at most, their cost (None: no known price)."""

    calls: int
    recorded: int
    usage: Usage
    cost: float | None
    unpriced: tuple[str, ...] = ()

    def __str__(self) -> str:
        money = f"at most about ${self.cost:.4f}" if self.cost is not None else ""
        unknown = f"cost unknown: no price for {', '.join(self.unpriced)} (see confitlib/llm/prices.yaml)"
        tokens = f"about {self.usage.input:,} tokens to send and {self.usage.output:,} to receive"
        return f"{self.calls} calls to make, {self.recorded} recorded; {tokens}; {money or unknown}"


@dataclass
class Summary:
    """What one `complete` or `embed` did; as text one line for the reader. `cost` is None where a price is unknown."""

    requests: int = 0
    called: int = 0
    answered: int = 0
    repaired: int = 0
    retried: int = 0
    malformed: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float | None = 0.0
    problems: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = [f"{self.answered} of {self.requests} answered", f"{self.called} calls"]
        counts = {"repaired": self.repaired, "retries": self.retried, "malformed replies": self.malformed}
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        parts += [self.spending()] if self.called else []
        problems = ", ".join(f"{count} {name}" for name, count in self.problems.items())
        parts += [f"without an answer: {problems}"] if problems else []
        return "; ".join(parts)

    def spending(self) -> str:
        """Tokens and US dollars."""
        cost = "cost unknown" if self.cost is None else f"${self.cost:.4f}"
        return f"{self.usage.input + self.usage.output:,} tokens, {cost}"


class MalformedReply(Exception):
    """Responses with status 200 that hold no reply."""


class Client:
    """Answers requests from a store, and asks a server for what the store lacks.

    model: the name for requests made by this client's users (else CONFIT_LLM_MODEL, else the paper's).
    base_url, api_key: else OPENAI_BASE_URL and OPENAI_API_KEY; with neither, or `offline`, the store is
    replayed and nothing is ever sent. concurrency: calls at once. budget: US dollars this client may spend
    in all; a call that might cross it is not made. timeout: seconds for one attempt. retries: of 429, 5xx,
    time-outs and broken connections, by the openai package, which alone holds the key. prices: a YAML file or
    a table. E-mail addresses, web addresses and phone numbers are covered before sending. After a call, `summary`
    says what it did and `spent` what the client has cost so far.
    """

    def __init__(
        self,
        store: Store | str | Path,
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        budget: float | None = None,
        timeout: float = 120.0,
        retries: int = 6,
        prices: Mapping[str, Price] | str | Path | None = None,
        offline: bool = False,
    ) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.model = model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
        self.prices = prices if isinstance(prices, Mapping) else load_prices(prices)
        self.concurrency, self.budget, self.timeout, self.retries = concurrency, budget, timeout, retries
        check_range(self, "budget", "retries")
        check_range(self, "concurrency", least=1)
        check_range(self, "timeout", above=0)
        self.spent = self._reserved = 0.0
        self.summary = Summary()
        self._stopped: str | None = None  # why no further call is made
        self._lock = threading.Lock()  # held to change spent, _reserved, _stopped, summary or store
        self._api: OpenAI | None = None
        url, key = base_url or os.environ.get(URL_VARIABLE), api_key or os.environ.get(KEY_VARIABLE)
        if (url or key) and not offline:
            from openai import OpenAI

            if re.search(r"//[^/]*@", url or ""):
                raise ValueError(f"the base URL holds a password: give the key in {KEY_VARIABLE} instead")
            self._api = OpenAI(api_key=key or NO_KEY, base_url=url, max_retries=retries, timeout=timeout)

    def __repr__(self) -> str:
        where = self._api.base_url if self._api else "nowhere (replay only)"
        return f"Client({self.store!r}, model={self.model!r}, calls {where})"

    @property
    def live(self) -> bool:
        """Whether there is a server to ask."""
        return self._api is not None

    def complete(
        self, requests: Sequence[Request], *, check: Check | None = None, progress: bool = True
    ) -> list[Answer]:
        """Answers aligned with the requests; what has none says why in `problem`, nothing is raised for it.

        check: says what is wrong with a reply, or None; such a reply is asked for once more with the fault
        quoted. Ctrl-C ends it; replies that arrive later are still stored. Raises ValueError if a budget is
        set and a model has no price.
        """
        self._begin(requests)
        problems: dict[str, str] = {}
        stored = [self._stored(request, check, problems) for request in requests]
        for _ in range(2 if self.live else 0):  # the replies, then the repairs of those that are at fault
            asks = [ask for _, ask in stored if ask is not None and ask.fingerprint() not in problems]
            if not asks:
                break
            problems |= self._call_all({ask.fingerprint(): [ask] for ask in asks}, self._chat, progress)
            stored = [self._stored(request, check, problems) for request in requests]
        answers, done = [answer for answer, _ in stored], self.summary
        done.requests, done.answered = len(answers), sum(answer.text is not None for answer in answers)
        done.repaired = sum(answer.repaired for answer in answers)
        done.problems.update(answer.problem.split(":")[0] for answer in answers if answer.problem)
        return answers

    def embed(self, texts: Sequence[str], *, model: str, progress: bool = False) -> NDArray[np.float32]:
        """Embeddings of texts from an endpoint, float32 [n, d], through the same store.

        Raises LookupError if some are not recorded and the server does not give them.
        """
        requests = [EmbeddingRequest(model, mask(text)) for text in texts]
        self._begin(requests)
        missing = [ask for ask in dict.fromkeys(requests) if ask.fingerprint() not in self.store]
        parts = {str(i): missing[i : i + EMBEDDING_BATCH] for i in range(0, len(missing), EMBEDDING_BATCH)}
        problems = self._call_all(parts, self._embeddings, progress) if self.live else {}
        entries = [entry for ask in requests if (entry := self.store.get(ask.fingerprint())) is not None]
        if absent := len(requests) - len(entries):
            why = "; ".join(dict.fromkeys(problems.values())) or REMEDY
            raise LookupError(f"{absent} of {len(requests)} embeddings by {model} are not recorded. {why}")
        vectors = [np.frombuffer(base64.b64decode(entry["vector"]), dtype="<f4") for entry in entries]
        return np.stack(vectors).astype(np.float32) if vectors else np.empty((0, 0), np.float32)

    def pending(self, requests: Sequence[Request], check: Check | None = None) -> list[Request]:
        """What is still to send, each once: a request itself (masked), or the one that asks for its repair."""
        self.store.refresh()
        asks = [ask for request in requests if (ask := self._stored(request, check, {})[1]) is not None]
        return list({ask.fingerprint(): ask for ask in asks}.values())

    def estimate(self, requests: Sequence[Request], check: Check | None = None, batch: bool = False) -> Estimate:
        """The dry run: calls still to make, their tokens and cost (repairs of new replies aside); nothing is sent."""
        asks = self.pending(requests, check)
        unpriced = tuple(sorted({ask.model for ask in asks} - set(self.prices)))
        usage = sum(map(estimate_usage, asks), Usage())
        costs = [self.prices[ask.model].cost(estimate_usage(ask), batch) for ask in asks if not unpriced]
        cost = None if unpriced else sum(costs)
        return Estimate(len(asks), len(requests) - len(asks), usage, cost, unpriced)

    def _begin(self, requests: Sequence[Request] | Sequence[EmbeddingRequest]) -> None:
        """Read the store again and start a new summary; raises ValueError for a budget that cannot be kept."""
        self.store.refresh()
        self.summary, self._stopped = Summary(), None
        unpriced = sorted({request.model for request in requests} - set(self.prices))
        if self.budget is not None and self.live and unpriced:
            remedy = "Add it to a price table (see confitlib/llm/prices.yaml)."
            raise ValueError(f"a budget of ${self.budget} cannot be kept: no price for {unpriced}. {remedy}")

    def _stored(
        self, request: Request, check: Check | None, problems: Mapping[str, str]
    ) -> tuple[Answer, Request | None]:
        """The answer to a request by the store, and what is still to send for it: itself (masked) or its repair.

        `problems`: why calls failed, by fingerprint.
        """
        ask = masked(request)
        entry = self.store.get(ask.fingerprint())
        if entry is None:
            absent = f"not recorded: no key and no server. {REMEDY}"
            return Answer(request, None, problems.get(ask.fingerprint(), absent)), ask
        problem = judge(request, entry, check)
        if problem is None or problem.startswith(REFUSED):  # a refusal stands
            return Answer(request, None if problem else entry["text"].strip(), problem), None
        again = repair(ask, entry["text"], problem)
        second = self.store.get(again.fingerprint())
        if second is None:
            return Answer(request, None, problem), again
        problem = judge(request, second, check)
        return Answer(request, None if problem else second["text"].strip(), problem, repaired=problem is None), None

    def _call_all(
        self, calls: Mapping[str, Sequence[T]], call: Callable[[Sequence[T]], None], progress: bool
    ) -> dict[str, str]:
        """Make calls at once, within concurrency and budget; returns by name why some brought no reply."""
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="llm")
        futures = {pool.submit(self._within_budget, asks, call): name for name, asks in calls.items()}
        try:
            with tqdm(total=len(calls), disable=not progress, desc="language model", unit="call") as bar:
                for _ in as_completed(futures):
                    bar.update()
                    bar.set_postfix_str(self.summary.spending())
        except KeyboardInterrupt:
            self._stopped = "stopped by hand"
            print(f"stopped; {self.summary.called} new replies are kept in {self.store.path}", file=sys.stderr)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return {name: problem for future, name in futures.items() if (problem := future.result())}

    def _within_budget(self, asks: Sequence[Any], call: Callable[[Sequence[Any]], None]) -> str | None:
        """One call, unless the run was stopped or it might cross the budget; returns why there is no reply."""
        price = self.prices.get(asks[0].model)
        worst = price.cost(sum(map(estimate_usage, asks), Usage())) if price else 0.0
        with self._lock:
            if self._stopped:
                return self._stopped
            if self.budget is not None and self.spent + self._reserved + worst > self.budget:
                return f"budget: ${self.spent:.4f} of ${self.budget} spent and the next call might cross it"
            self._reserved += worst
        try:
            call(asks)
        except Exception as error:
            return self._failure(error)
        finally:
            with self._lock:
                self._reserved -= worst
        return None

    def _failure(self, error: Exception) -> str:
        """What went wrong, for the reader; a wrong key or no server, before anything was answered, ends the run."""
        import openai

        if isinstance(error, MalformedReply):
            return f"malformed reply: {error}"
        if not isinstance(error, openai.OpenAIError) or self._api is None:
            raise error
        status = getattr(error, "status_code", None)
        message = f"no reply: {type(error).__name__}: {str(error).replace(self._api.api_key, '***')[:300]}"
        hopeless = status in (401, 403, 404) or isinstance(error, openai.APIConnectionError)
        if hopeless and not self.summary.called:
            self._stopped = message
        return message

    def _chat(self, asks: Sequence[Request]) -> None:
        assert self._api is not None
        create = self._api.chat.completions.with_raw_response.create
        self._keep(asks, self._post(create, lambda content: [read_chat(content)], **asks[0].body()))

    def _embeddings(self, asks: Sequence[EmbeddingRequest]) -> None:
        assert self._api is not None
        create, texts = self._api.embeddings.with_raw_response.create, [ask.text for ask in asks]
        read = partial(read_vectors, len(asks))
        self._keep(asks, self._post(create, read, model=asks[0].model, input=texts, encoding_format="float"))

    def _post(self, create: Callable[..., Any], read: Callable[[Any], list[Entry]], **body: Any) -> list[Entry]:
        """Call until the server sends something that can be read; the openai package retries all other faults."""
        fault = ""
        for _ in range(TRIES):
            raw = create(**body)
            with self._lock:
                self.summary.retried += raw.retries_taken
            try:
                return read(json.loads(raw.text))
            except ValueError as error:
                fault = str(error)
            with self._lock:
                self.summary.malformed += 1
        raise MalformedReply(fault)

    def _keep(self, asks: Sequence[Request | EmbeddingRequest], replies: Sequence[Entry]) -> None:
        """Store the replies of one call before anyone sees them, and count what it cost.

        Tokens that the server does not count are charged as they were estimated.
        """
        with self._lock:
            for ask, reply in zip(asks, replies, strict=True):
                self.store.add(ask, **reply, origin="api")
            estimated, counted = sum(map(estimate_usage, asks), Usage()), replies[0]["usage"]
            charged = Usage(*(getattr(estimated, name) if n is None else n for name, n in counted.items()))
            price, done = self.prices.get(asks[0].model), self.summary
            cost = price.cost(charged) if price else None
            self.spent += cost or 0.0
            done.called += 1
            done.usage += usage_of(replies[0])
            done.cost = None if cost is None or done.cost is None else done.cost + cost


def read_vectors(n: int, content: Any) -> list[Entry]:
    """An entry of the store for each of the `n` texts of an embeddings response; raises ValueError if it is none."""
    try:
        rows = sorted(content["data"], key=lambda row: row["index"])
        vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    except (LookupError, TypeError) as error:
        raise ValueError("no embeddings") from error
    if vectors.ndim != 2 or len(vectors) != n or not np.isfinite(vectors).all():
        raise ValueError(f"embeddings of shape {list(vectors.shape)} for {n} texts")
    served_by = storable(content.get("model"))
    entries: list[Entry] = [
        {"vector": encode_vector(vector), "usage": {}, "served_by": served_by} for vector in vectors
    ]
    entries[0]["usage"] = read_usage(content)  # the server counts tokens by call, not by text
    return entries


def encode_vector(vector: NDArray[np.float32]) -> str:
    """A vector as base64 of little-endian float32: exact, and a third of its size in decimals."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
