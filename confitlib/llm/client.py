"""The client of any OpenAI-compatible endpoint: nothing paid twice, nothing answered lost."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from confitlib.llm.pricing import Estimate, Price, estimate, estimate_usage, load_prices
from confitlib.llm.replies import (
    MalformedReply,
    judge,
    parse_object,
    read_chat,
    read_usage,
    repairable,
    usage_of,
)
from confitlib.llm.requests import Answer, Check, EmbeddingRequest, Origin, Request, Usage, repair
from confitlib.llm.safety import mask, masked
from confitlib.llm.secret import Secret
from confitlib.llm.store import Entry, Store
from confitlib.llm.vectors import decode_vector, encode_vector, read_vectors

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

KEY_VARIABLE, URL_VARIABLE, MODEL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL", "CONFIT_LLM_MODEL"
DEFAULT_MODEL = "gpt-4o-mini"  # the paper's
MALFORMED_TRIES = 3
EMBEDDING_BATCH = 64
MISSING = "not recorded"
REMEDY = (
    f"Set {KEY_VARIABLE}, or {URL_VARIABLE} to a local server such as `transformers serve`; "
    "or use the offline writer, which needs no language model."
)


@dataclass
class Summary:
    """What one `complete` did; as text one line for the reader."""

    requests: int = 0
    called: int = 0
    answered: int = 0
    repaired: int = 0
    retried: int = 0
    malformed: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float | None = 0.0
    masked: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = [f"{self.answered} of {self.requests} answered", f"{self.called} calls"]
        counts = {"repaired": self.repaired, "retries": self.retried, "malformed replies": self.malformed}
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        parts += [f"{self.usage.input + self.usage.output:,} tokens, {dollars(self.cost)}"] if self.called else []
        parts += [f"masked before sending: {_listed(self.masked)}"] if self.masked else []
        parts += [f"without an answer: {_listed(self.problems)}"] if self.problems else []
        return "; ".join(parts)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def dollars(cost: float | None) -> str:
    """An amount for the reader; None is a cost that no price table knows."""
    return "cost unknown" if cost is None else f"${cost:.4f}"


class _Run:
    """The state of one `complete` or `embed`: the gate, calls under way, why to stop, what was counted."""

    def __init__(self, concurrency: int, bar: tqdm[Any]) -> None:
        self.gate = asyncio.Semaphore(concurrency)
        self.calls: dict[str, asyncio.Task[Entry | str]] = {}
        self.stopped: str | None = None
        self.summary = Summary()
        self.bar = bar

    def count(self, usage: Usage, cost: float | None) -> None:
        """Add a call that was paid for, and show it on the bar."""
        done = self.summary
        done.called += 1
        done.usage += usage
        done.cost = None if cost is None or done.cost is None else done.cost + cost
        self.bar.set_postfix_str(f"{done.usage.input + done.usage.output:,} tokens, {dollars(done.cost)}")


class Client:
    """Answers requests from a store, and asks a server for what the store lacks.

    model: the name for requests made by this client's users (else CONFIT_LLM_MODEL, else the paper's).
    base_url, api_key: else OPENAI_BASE_URL and OPENAI_API_KEY; with neither, or `offline`, the store is
    replayed and nothing is ever sent. concurrency: calls at once. budget: US dollars this client may spend
    in all; a call that might cross it is not made. deadline: seconds for one call with all its retries;
    timeout: for one attempt. retries: of 429, 5xx, time-outs and broken connections, by the openai package.
    mask: cover e-mail addresses, web addresses and phone numbers before sending. prices: a YAML file or a
    table. After a call, `summary` says what it did and `spent` what the client has cost so far.
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
        deadline: float = 600.0,
        timeout: float = 120.0,
        retries: int = 6,
        mask: bool = True,
        prices: Mapping[str, Price] | str | Path | None = None,
        offline: bool = False,
    ) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.model = model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
        self.base_url = None if offline else base_url or os.environ.get(URL_VARIABLE) or None
        self._key = Secret(None if offline else api_key or os.environ.get(KEY_VARIABLE))
        self.prices = prices if isinstance(prices, Mapping) else load_prices(prices)
        self.concurrency, self.budget, self.deadline = concurrency, budget, deadline
        self.timeout, self.retries, self.mask = timeout, retries, mask
        self.spent = self._reserved = 0.0
        self.summary = Summary()
        if self.base_url and re.search(r"//[^/]*@", self.base_url):
            raise ValueError(f"the base URL holds a password: give the key in {KEY_VARIABLE} instead")
        if concurrency < 1 or deadline <= 0 or timeout <= 0 or retries < 0 or (budget is not None and budget < 0):
            raise ValueError("concurrency, deadline and timeout must be positive, retries and budget not negative")

    def __repr__(self) -> str:
        where = (self.base_url or "the default endpoint") if self.live else "nowhere (replay only)"
        return f"Client({self.store!r}, model={self.model!r}, calls {where})"

    @property
    def live(self) -> bool:
        """Whether there is a server to ask."""
        return bool(self.base_url or self._key)

    def complete(
        self, requests: Sequence[Request], *, check: Check | None = None, progress: bool = True
    ) -> list[Answer]:
        """Answers aligned with the requests; what has none says why in `problem`, nothing is raised for it.

        check: says what is wrong with a reply, or None; such a reply is asked for once more with the fault
        quoted. Works as a plain call inside a notebook's event loop too. Ctrl-C ends it; all that was
        answered is in the store by then. Raises ValueError if a budget is set and a model has no price.
        """
        self.store.refresh()
        self._check_budget(requests)
        with tqdm(total=len(requests), disable=not progress, desc="language model", unit="request") as bar:
            run = _Run(self.concurrency, bar)
            self.summary = run.summary
            answers = self._work(self._complete(run, requests, check))
        run.summary.requests = len(answers)
        run.summary.answered = sum(answer.problem is None for answer in answers)
        run.summary.repaired = sum(answer.repaired for answer in answers)
        run.summary.problems.update(answer.problem.split(":")[0] for answer in answers if answer.problem)
        return answers

    def embed(self, texts: Sequence[str], *, model: str, progress: bool = False) -> NDArray[np.float32]:
        """Embeddings of texts from an endpoint, float32 [n, d], through the same store.

        Raises LookupError if some are not recorded and cannot be had now.
        """
        self.store.refresh()
        self.summary = Summary()
        requests = [EmbeddingRequest(model, mask(text)[0] if self.mask else text) for text in texts]
        missing = [one for one in dict.fromkeys(requests) if one.fingerprint() not in self.store]
        self._check_budget(missing)
        if missing and self.live:
            with tqdm(total=len(missing), disable=not progress, desc="embeddings", unit="text") as bar:
                run = _Run(self.concurrency, bar)
                self.summary = run.summary
                self._work(self._embed(run, missing))
        entries = [self.store.get(one.fingerprint()) for one in requests]
        absent = sum(entry is None for entry in entries)
        if absent:
            why = (self.summary.problems and _listed(self.summary.problems)) or REMEDY
            raise LookupError(f"{absent} of {len(texts)} embeddings by {model} are not recorded. {why}")
        return (
            np.stack([decode_vector(entry["vector"]) for entry in entries if entry])
            if entries
            else np.empty((0, 0), np.float32)
        )

    def pending(self, requests: Sequence[Request], check: Check | None = None) -> list[tuple[Request, Request]]:
        """What is still to ask, as pairs of a request and what to send for it: itself (masked), or its repair."""
        self.store.refresh()
        asked = [(request, self._next(request, check)) for request in requests]
        missing = {ask.fingerprint(): (request, ask) for request, ask in reversed(asked) if ask is not None}
        return list(reversed(missing.values()))

    def _next(self, request: Request, check: Check | None) -> Request | None:
        ask = self._sent(request)[0]
        entry = self.store.get(ask.fingerprint())
        if entry is None:
            return ask
        problem = judge(request, entry, check)
        if problem is None or not repairable(problem):
            return None
        again = repair(ask, entry["text"], problem)
        return None if again.fingerprint() in self.store else again

    def estimate(self, requests: Sequence[Request], check: Check | None = None, batch: bool = False) -> Estimate:
        """The dry run: calls still to make, their tokens and cost; nothing is sent."""
        missing = [ask for _, ask in self.pending(requests, check)]
        return estimate(missing, len(requests) - len(missing), self.prices, batch)

    def connection(self) -> AsyncOpenAI:
        """The openai package's client for this endpoint; raises LookupError if there is none."""
        if not self.live:
            raise LookupError(f"there is no endpoint to call. {REMEDY}")
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=self._key.reveal(), base_url=self.base_url, max_retries=self.retries, timeout=self.timeout
        )

    def scrub(self, text: str) -> str:
        """A text, such as a server's error message, without the key."""
        return self._key.scrub(text)

    def _sent(self, request: Request) -> tuple[Request, Counter[str]]:
        return masked(request) if self.mask else (request, Counter())

    def _check_budget(self, requests: Sequence[Request] | Sequence[EmbeddingRequest]) -> None:
        unpriced = sorted({request.model for request in requests} - set(self.prices))
        if self.budget is not None and self.live and unpriced:
            raise ValueError(
                f"a budget of ${self.budget} cannot be kept: no price for {unpriced}. "
                "Add it to a price table (see confitlib/llm/prices.yaml)."
            )

    def check_batch(self, requests: Sequence[Request], under_way: Sequence[Request] = ()) -> None:
        """Raise ValueError if a batch of these requests, and those of open batches, might cross the budget."""
        self._check_budget([*requests, *under_way])
        cost = estimate([*requests, *under_way], 0, self.prices, batch=True).cost
        if self.budget is not None and cost is not None and self.spent + cost > self.budget:
            known = f"${self.spent:.4f} spent and {len(under_way)} requests in open batches"
            raise ValueError(
                f"the batch may bring the cost to ${self.spent + cost:.4f} (with {known}), "
                f"which crosses the budget of ${self.budget}"
            )

    def charge(self, model: str, usage: Usage, batch: bool = False) -> float | None:
        """Add what a reply cost to `spent`; returns its US dollars, None where no price is known."""
        price = self.prices.get(model)
        cost = price.cost(usage, batch) if price else None
        self.spent += cost or 0.0
        return cost

    def _work(self, main: Coroutine[Any, Any, T]) -> T:
        try:
            return in_worker_thread(main)
        except KeyboardInterrupt:
            print(f"stopped; {self.summary.called} new replies are kept in {self.store.path}", file=sys.stderr)
            raise

    async def _complete(self, run: _Run, requests: Sequence[Request], check: Check | None) -> list[Answer]:
        if not self.live:
            return [await self._answer(None, run, request, check) for request in requests]
        async with self.connection() as api:
            answers = (self._answer(api, run, request, check) for request in requests)
            ended = await asyncio.gather(*answers, return_exceptions=True)  # an error must not lose replies under way
        for answer in ended:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in ended if isinstance(answer, Answer)]

    async def _answer(self, api: AsyncOpenAI | None, run: _Run, request: Request, check: Check | None) -> Answer:
        """The reply to a request, or to its repair if the first is at fault."""
        ask, covered = self._sent(request)
        new = ask.fingerprint() not in self.store
        entry = await self._reply(api, run, ask)
        run.summary.masked += covered if new and api else Counter()
        answer = self._judged(request, ask, entry, check, new)
        if answer.problem and isinstance(entry, dict) and repairable(answer.problem):
            answer = await self._repaired(api, run, answer, ask, entry, check)
        run.bar.update()
        return answer

    async def _repaired(
        self, api: AsyncOpenAI | None, run: _Run, first: Answer, ask: Request, entry: Entry, check: Check | None
    ) -> Answer:
        again = repair(ask, entry["text"], first.problem or "")
        new = again.fingerprint() not in self.store
        second = await self._reply(api, run, again)
        if isinstance(second, str):
            return first
        answer = self._judged(first.request, again, second, check, new)
        return replace(answer, usage=first.usage + answer.usage, repaired=answer.problem is None)

    def _judged(self, request: Request, ask: Request, entry: Entry | str, check: Check | None, new: bool) -> Answer:
        if isinstance(entry, str):
            return Answer(request, None, entry, ask.fingerprint())
        problem = judge(request, entry, check)
        text = None if problem else entry["text"].strip()
        origin: Origin = "called" if new else "recorded"
        return Answer(request, text, problem, ask.fingerprint(), entry.get("finish_reason"), usage_of(entry), origin)

    async def _reply(self, api: AsyncOpenAI | None, run: _Run, ask: Request) -> Entry | str:
        """The stored reply, else the server's, else what prevents it; equal requests share one call."""
        name = ask.fingerprint()
        known = self.store.get(name)
        if known is not None:
            return known
        if api is None:
            return f"{MISSING}: no key and no server. {REMEDY}"
        if name not in run.calls:
            run.calls[name] = asyncio.ensure_future(self._fetch(run, ask, self._chat(api, run, ask)))
        return await run.calls[name]

    async def _fetch(self, run: _Run, ask: Request | EmbeddingRequest, call: Coroutine[Any, Any, T]) -> T | str:
        """One call within concurrency, budget and deadline; its failure as a sentence."""
        async with run.gate:
            worst = self._worst_cost(ask)
            stop = run.stopped or self._over_budget(worst)
            if stop:
                call.close()
                return stop
            self._reserved += worst
            try:
                return await asyncio.wait_for(call, self.deadline)
            except Exception as error:
                return self._failure(run, error)
            finally:
                self._reserved -= worst

    def _worst_cost(self, ask: Request | EmbeddingRequest) -> float:
        price = self.prices.get(ask.model)
        return price.cost(estimate_usage(ask)) if price else 0.0

    def _over_budget(self, worst: float) -> str | None:
        if self.budget is None or self.spent + self._reserved + worst <= self.budget:
            return None
        return f"budget: ${self.spent:.4f} of ${self.budget} spent and the next call might cross it"

    def _failure(self, run: _Run, error: Exception) -> str:
        """What went wrong, for the reader; a wrong key or no server, before anything was answered, ends the run."""
        import openai

        if isinstance(error, MalformedReply):
            return str(error)
        if isinstance(error, TimeoutError):
            return f"no reply: none within {self.deadline:g} s"
        if not isinstance(error, openai.OpenAIError):
            raise error
        status = getattr(error, "status_code", None)
        message = f"no reply: {type(error).__name__}: {self.scrub(str(error))[:300]}"
        hopeless = status in (401, 403, 404) or isinstance(error, openai.APIConnectionError)
        if hopeless and not run.summary.called:
            run.stopped = message
        return message

    async def _chat(self, api: AsyncOpenAI, run: _Run, ask: Request) -> Entry:
        """Call until the server sends something that is a reply; store it before anyone sees it."""
        for attempt in range(MALFORMED_TRIES):
            raw = await api.chat.completions.with_raw_response.create(**ask.body())
            run.summary.retried += raw.retries_taken
            try:
                reply = read_chat(parse_object(raw.text))
                break
            except MalformedReply:
                run.summary.malformed += 1
                if attempt == MALFORMED_TRIES - 1:
                    raise
        entry = self.store.add(ask, **reply, origin="api")
        self._paid(run, ask.model, usage_of({"usage": reply["usage"]}))
        return entry

    def _paid(self, run: _Run, model: str, usage: Usage) -> None:
        run.count(usage, self.charge(model, usage))

    async def _embed(self, run: _Run, missing: Sequence[EmbeddingRequest]) -> None:
        parts = [missing[i : i + EMBEDDING_BATCH] for i in range(0, len(missing), EMBEDDING_BATCH)]
        async with self.connection() as api:
            await asyncio.gather(*(self._embed_part(api, run, part) for part in parts))

    async def _embed_part(self, api: AsyncOpenAI, run: _Run, part: Sequence[EmbeddingRequest]) -> None:
        whole = EmbeddingRequest(part[0].model, "\n".join(one.text for one in part))
        problem = await self._fetch(run, whole, self._vectors(api, run, part))
        if problem:
            run.summary.problems[problem] += len(part)
        run.bar.update(len(part))

    async def _vectors(self, api: AsyncOpenAI, run: _Run, part: Sequence[EmbeddingRequest]) -> None:
        raw = await api.embeddings.with_raw_response.create(
            model=part[0].model, input=[one.text for one in part], encoding_format="float"
        )
        run.summary.retried += raw.retries_taken
        content = parse_object(raw.text)
        vectors = read_vectors(content, len(part))
        usage = read_usage(content)
        for number, (one, vector) in enumerate(zip(part, vectors, strict=True)):
            billed = usage if number == 0 else {}  # the server counts tokens by call, not by text
            self.store.add(
                one, vector=encode_vector(vector), usage=billed, served_by=content.get("model"), origin="api"
            )
        self._paid(run, part[0].model, usage_of({"usage": usage}))


def in_worker_thread(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread of its own, where a notebook's running event loop is no hindrance.

    Ctrl-C cancels it, waits until it has let go, and is raised again.
    """
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def supervised() -> T:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        return await main

    with ThreadPoolExecutor(1, thread_name_prefix="llm") as pool:
        future = pool.submit(asyncio.run, supervised())
        try:
            return future.result()
        except KeyboardInterrupt:
            for loop, task in running:
                loop.call_soon_threadsafe(task.cancel)
            raise


def explain(answers: Sequence[Answer]) -> str:
    """One line on the requests that have no answer, with what to do; empty if all have one."""
    problems = Counter(answer.problem.split(":")[0] for answer in answers if answer.problem)
    if not problems:
        return ""
    advice = f" {REMEDY}" if MISSING in problems else ""
    return f"{sum(problems.values())} of {len(answers)} requests have no answer ({_listed(problems)}).{advice}"
