"""One call for every task and every writer: an LLM, its recorded answers, or the offline writer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from confitlib.augment.asking import Asking
from confitlib.augment.tasks import official_clean, task_named
from confitlib.augment.written import Written
from confitlib.corpus import Corpus, Side
from confitlib.llm import Answer, Client
from confitlib.llm.client import DEFAULT_MODEL
from confitlib.util import project_root

AnyWriter = str | Client
AUTO, OFFLINE = "auto", "offline"
MODEL = DEFAULT_MODEL


def recorded_answers() -> Path:
    """The committed store whose answers are replayed wherever no other is named."""
    return project_root() / "records" / "llm" / "answers.jsonl"


def write(
    task: str,
    corpus: Corpus,
    side: Side,
    ids: Sequence[str],
    *,
    writer: AnyWriter = AUTO,
    variants: int = 1,
    seed: int = 0,
    shots: int | None = None,
    official: bool = False,
) -> Written:
    """Texts for documents of a side, by task (`TASKS`) and writer.

    `writer`: a `Client` asks its model, and only it may call a server; the name of a model replays its recorded
    answers; "offline" needs no LLM; "auto" replays the answers of the official model (gpt-4o-mini) and is "offline"
    where none is recorded. A document without a usable answer gets no text and is reported, never given another
    writer's. `shots`, `official`: see `Asking`; they concern the LLM only.
    """
    known = task_named(task, side)
    if writer == OFFLINE or (writer == AUTO and not recorded_answers().is_file()):
        return known.offline(corpus, side, ids, variants, seed)
    client = writer if isinstance(writer, Client) else _replay(MODEL if writer == AUTO else writer)
    asking = Asking(known, corpus, side, seed, shots, official)
    answers = client.complete(asking.requests(ids, client.model, variants), check=asking.check, progress=client.live)
    if writer == AUTO and all(answer.text is None for answer in answers):
        return known.offline(corpus, side, ids, variants, seed)
    return _collected(asking, answers, f"LLM {client.model}")


def _replay(model: str) -> Client:
    return Client(recorded_answers(), model=model, offline=True)


def _collected(asking: Asking, answers: Sequence[Answer], writer: str) -> Written:
    texts: dict[str, list[str]] = {}
    problems: dict[str, str] = {}
    for answer in answers:
        name = answer.request.about
        if answer.text is None:
            problems.setdefault(name, str(answer.problem))
        else:
            texts.setdefault(name, []).append(_document(asking, answer.text))
    sources = {name: asking.examples(name)["partner"].tolist() for name in texts}
    left = {name: problem for name, problem in problems.items() if name not in texts}
    return Written(writer, texts, left, sources)


def _document(asking: Asking, reply: str) -> str:
    return official_clean(reply) if asking.official else asking.task.document_in(reply)
