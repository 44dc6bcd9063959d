"""The client of any OpenAI-compatible endpoint: nothing paid twice, nothing answered lost; what calls cost."""

import base64
import json
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from confitlib.llm.requests import Answer, Check, EmbeddingRequest, Request, Usage, judge, mask, read_chat, read_vectors
from confitlib.llm.store import Store
from confitlib.util import check_range, checked, made_of, read_yaml

KEY_VARIABLE, URL_VARIABLE, MODEL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL", "CONFIT_LLM_MODEL"
DEFAULT_MODEL = "gpt-4o-mini"  # the paper's
TRIES, RETRIES, TIMEOUT = 3, 6, 120.0  # calls until one holds a reply; of each, its retries and seconds
EMBEDDING_BATCH = 64
BYTES_PER_TOKEN, TOKENS_PER_MESSAGE, ASSUMED_OUTPUT = 3, 8, 1024
REMEDY = (
    f"Set {KEY_VARIABLE}, or {URL_VARIABLE} to a local server such as `transformers serve`; "
    "or use the offline writer, which needs no language model."
)


@checked
@dataclass(frozen=True)
class Price:
    """US dollars per million tokens; a call in a batch costs the share `batch` of that."""

    input: float
    output: float
    batch: float = 1.0
    source: str = ""

    def __post_init__(self) -> None:
        check_range(self, "input", "output", "batch", most=1e6)

    def cost(self, usage: Usage, batch: bool = False) -> float:
        """US dollars for the tokens of calls."""
        return (usage.input * self.input + usage.output * self.output) / 1e6 * (self.batch if batch else 1.0)


def load_prices() -> dict[str, Price]:
    """The shipped price table, with the entries of the file in CONFIT_PRICES on top.

    Raises ValueError naming file and model for an entry that is no price.
    """
    files = filter(None, [str(Path(__file__).with_name("prices.yaml")), os.environ.get("CONFIT_PRICES")])
    entries = [(file, model, entry) for file in files for model, entry in read_yaml(file, dict).items()]
    remedy = "Give input and output in dollars per million tokens."
    return {str(model): made_of(Price, entry, f"{file}, {model}", remedy) for file, model, entry in entries}


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
        money = f"cost unknown: no price for {', '.join(self.unpriced)} (see confitlib/llm/prices.yaml)"
        money = money if self.cost is None else f"at most about ${self.cost:.4f}"
        tokens = f"about {self.usage.input:,} tokens to send and {self.usage.output:,} to receive"
        return f"{self.calls} calls to make, {self.recorded} recorded; {tokens}; {money}"


@dataclass
class Summary:
    """What one `complete` or `embed` did; as text one line for the reader. `cost` is NaN where a price is unknown."""

    requests: int = 0
    called: int = 0
    answered: int = 0
    repaired: int = 0
    retried: int = 0
    malformed: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0
    problems: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = [f"{self.answered} of {self.requests} answered", f"{self.called} calls"]
        counts = {"repaired": self.repaired, "retries": self.retried, "malformed replies": self.malformed}
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        cost = "cost unknown" if math.isnan(self.cost) else f"${self.cost:.4f}"
        parts += [f"{self.usage.input + self.usage.output:,} tokens, {cost}"] if self.called else []
        problems = ", ".join(f"{count} {name}" for name, count in self.problems.items())
        parts += [f"without an answer: {problems}"] if problems else []
        return "; ".join(parts)


class Client:
    """Answers requests from a store, and asks a server for what the store lacks.

    model: the name for requests made by this client's users (else CONFIT_LLM_MODEL, else the paper's).
    budget: US dollars this client may spend in all; a call that might cross it is not made. concurrency: calls at
    once. api: the openai client to call, which holds key, address, time-out and retries (of 429, 5xx, time-outs and
    broken connections); by default one for OPENAI_API_KEY and OPENAI_BASE_URL. Where neither is set, or with
    `offline`, the store is replayed and nothing is ever sent. E-mail addresses, web addresses and phone numbers are
    covered before sending. After a call, `summary` says what it did and `spent` what the client has cost so far.
    """

    @checked
    def __init__(
        self,
        store: Store | str | Path,
        *,
        model: str | None = None,
        budget: float | None = None,
        concurrency: int = 8,
        offline: bool = False,
        api: Any = None,  # an openai.OpenAI
    ) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.model = model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
        self.prices, self.budget, self.concurrency = load_prices(), budget, concurrency
        check_range(self, "budget")
        check_range(self, "concurrency", least=1)
        if api is None and not offline and (os.environ.get(KEY_VARIABLE) or os.environ.get(URL_VARIABLE)):
            from openai import OpenAI

            key = os.environ.get(KEY_VARIABLE) or "local-server-without-a-key"
            api = OpenAI(api_key=key, max_retries=RETRIES, timeout=TIMEOUT)
        if api is not None and api.base_url.userinfo:
            raise ValueError(f"the base URL holds a password: give the key in {KEY_VARIABLE} instead")
        self.spent = self._reserved = 0.0
        self.summary = Summary()
        self._api: Any = None if offline else api
        self.live = self._api is not None  # whether there is a server to ask
        self._problems: dict[str, str] = {}  # why calls brought no reply, by fingerprint
        self._stopped: str | None = None  # why no further call is made
        self._lock = threading.Lock()  # held to change all of these and the store

    def complete(self, requests: Sequence[Request], *, check: Check | None = None) -> list[Answer]:
        """Answers aligned with the requests; what has none says why in `problem`, nothing is raised for it.

        check: says what is wrong with a reply, or None; such a reply is asked for once more with the fault
        quoted. Ctrl-C ends it; replies that arrive later are still stored. Raises ValueError if a budget is
        set and a model has no price.
        """
        self._begin(requests)
        for _ in range(2 if self.live else 0):  # the replies, then the repairs of those that are at fault
            asks = self.pending(requests, check)
            self._call_all([[ask] for ask in asks if ask.fingerprint() not in self._problems])
        answers, done = [self._stored(request, check)[0] for request in requests], self.summary
        done.requests, done.answered = len(answers), sum(answer.text is not None for answer in answers)
        done.repaired = sum(answer.repaired for answer in answers)
        done.problems.update(answer.problem.split(":")[0] for answer in answers if answer.problem)
        return answers

    def embed(self, texts: Sequence[str], *, model: str) -> NDArray[np.float32]:
        """Embeddings of texts from an endpoint, float32 [n, d], through the same store.

        Raises LookupError if some are not recorded and the server does not give them.
        """
        requests = [EmbeddingRequest(model, mask(text)) for text in texts]
        self._begin(requests)
        asks = [ask for ask in dict.fromkeys(requests) if ask.fingerprint() not in self.store]
        batches = [asks[i : i + EMBEDDING_BATCH] for i in range(0, len(asks), EMBEDDING_BATCH)]
        self._call_all(batches if self.live else [])
        entries = [self.store.get(ask.fingerprint()) for ask in requests]
        if absent := entries.count(None):
            why = "; ".join(dict.fromkeys(self._problems.values())) or REMEDY
            raise LookupError(f"{absent} of {len(requests)} embeddings by {model} are not recorded. {why}")
        vectors = [np.frombuffer(base64.b64decode(entry["vector"]), dtype="<f4") for entry in entries if entry]
        return np.stack(vectors).astype(np.float32) if vectors else np.empty((0, 0), np.float32)

    def pending(self, requests: Sequence[Request], check: Check | None = None) -> list[Request]:
        """What is still to send, each once: a request itself (masked), or the one that asks for its repair."""
        self.store.refresh()
        asks = [self._stored(request, check)[1] for request in requests]
        return list({ask.fingerprint(): ask for ask in asks if ask is not None}.values())

    def estimate(self, requests: Sequence[Request], check: Check | None = None, batch: bool = False) -> Estimate:
        """The dry run: calls still to make, their tokens and cost (repairs of new replies aside); nothing is sent."""
        asks = self.pending(requests, check)
        unpriced = tuple(sorted({ask.model for ask in asks} - set(self.prices)))
        cost = None if unpriced else sum(self.prices[ask.model].cost(estimate_usage(ask), batch) for ask in asks)
        return Estimate(len(asks), len(requests) - len(asks), sum(map(estimate_usage, asks), Usage()), cost, unpriced)

    def _begin(self, requests: Sequence[Request] | Sequence[EmbeddingRequest]) -> None:
        """Read the store again and start a new summary; raises ValueError for a budget that cannot be kept."""
        self.store.refresh()
        self.summary, self._problems, self._stopped = Summary(), {}, None
        unpriced = sorted({request.model for request in requests} - set(self.prices))
        if self.budget is not None and self.live and unpriced:
            remedy = "Add it to a price table (see confitlib/llm/prices.yaml)."
            raise ValueError(f"a budget of ${self.budget} cannot be kept: no price for {unpriced}. {remedy}")

    def _stored(self, request: Request, check: Check | None) -> tuple[Answer, Request | None]:
        """The answer to a request by the store, and what is still to send for it: itself (masked) or its repair."""
        # 1. the first reply
        ask = replace(request, messages=[{**one, "content": mask(one["content"])} for one in request.messages])
        entry = self.store.get(ask.fingerprint())
        if entry is None:
            absent = f"not recorded: no key and no server. {REMEDY}"
            return Answer(request, None, self._problems.get(ask.fingerprint(), absent)), ask
        problem = judge(request, entry, check)
        # 2. the second one, where the first is at fault
        again = ask.repair(entry["text"], problem) if problem else None
        if again is not None:
            entry = self.store.get(again.fingerprint())
            if entry is None:
                return Answer(request, None, problem), again
            problem = judge(request, entry, check)
        text = None if problem else entry["text"].strip()
        return Answer(request, text, problem, repaired=again is not None and not problem), None

    def _call_all(self, calls: Sequence[Sequence[Any]]) -> None:
        """Make calls at once, within concurrency and budget; notes in `_problems` why some brought no reply."""
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="llm")
        futures = {pool.submit(self._call, asks): asks[0].fingerprint() for asks in calls}
        try:
            with tqdm(total=len(calls), disable=not calls, desc="language model", unit="call") as bar:
                for _ in as_completed(futures):
                    bar.update()
                    bar.set_postfix_str(f"${self.spent:.4f}")
        except KeyboardInterrupt:
            self._stopped = "stopped by hand"
            print(f"stopped; {self.summary.called} new replies are kept in {self.store.path}", file=sys.stderr)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self._problems |= {name: problem for future, name in futures.items() if (problem := future.result())}

    def _call(self, asks: Sequence[Any]) -> str | None:
        """One call for requests of one kind and model, within the budget; returns why there is no reply, or None."""
        import openai

        price, worst = self.prices.get(asks[0].model), sum(map(estimate_usage, asks), Usage())
        reserve = price.cost(worst) if price else 0.0
        # 1. hold back the most it may cost, unless the run was stopped
        with self._lock:
            if self._stopped:
                return self._stopped
            if self.budget is not None and self.spent + self._reserved + reserve > self.budget:
                return f"budget: ${self.spent:.4f} of ${self.budget} spent and the next call might cross it"
            self._reserved += reserve
        # 2. ask; a wrong key or no server, before anything was answered, ends the run
        try:
            replies, fault = self._post(asks)
        except openai.OpenAIError as error:
            message = f"no reply: {type(error).__name__}: {str(error).replace(self._api.api_key, '***')[:300]}"
            denied = getattr(error, "status_code", None) in (401, 403, 404)
            if (denied or isinstance(error, openai.APIConnectionError)) and not self.summary.called:
                self._stopped = message
            return message
        # 3. store the replies before anyone sees them; tokens that the server does not count cost as estimated
        else:
            if not replies:
                return f"malformed reply: {fault}"
            with self._lock:
                for ask, reply in zip(asks, replies, strict=True):
                    self.store.add(ask, **reply, origin="api")
                usage = Usage(*(getattr(worst, name) if n is None else n for name, n in replies[0]["usage"].items()))
                self.spent += price.cost(usage) if price else 0.0
                self.summary.called += 1
                self.summary.usage += usage
                self.summary.cost += price.cost(usage) if price else math.nan
            return None
        finally:
            with self._lock:
                self._reserved -= reserve

    def _post(self, asks: Sequence[Any]) -> tuple[list[dict[str, Any]], str]:
        """Call until the server sends something that can be read; the openai package retries all other faults.

        Returns the replies; none, and what is wrong with the last response, if three hold no reply.
        """
        replies, fault, chat = [], "", isinstance(asks[0], Request)
        create = (self._api.chat.completions if chat else self._api.embeddings).with_raw_response.create
        texts = [] if chat else [one.text for one in asks]
        body = asks[0].body() if chat else {"model": asks[0].model, "input": texts, "encoding_format": "float"}
        for _ in range(TRIES):
            raw = create(**body)
            try:
                content = json.loads(raw.text)
                replies = [read_chat(content)] if chat else read_vectors(content, len(asks))
            except ValueError as error:
                fault = str(error)
            with self._lock:
                self.summary.retried += raw.retries_taken
                self.summary.malformed += not replies
            if replies:
                break
        return replies, fault
