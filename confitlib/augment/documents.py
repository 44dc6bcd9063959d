"""The augmentations: each takes a corpus and returns one with more text or more documents, noted as what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

from confitlib.augment.offline import hypothetical_offline, paraphrase_offline, synthetic_offline
from confitlib.augment.tasks import COPIES, Generations, PromptBuilder, draw_originals, task_named
from confitlib.corpus import COPY_OF, NEGATIVE_FOR, SIDES, Corpus, Side, Split, other
from confitlib.llm.client import DEFAULT_MODEL, Client
from confitlib.text import read_fields, texts, words
from confitlib.util import checked, content_key, numbered_entries, project_root

Generator = str | Client
AUTO, OFFLINE = "auto", "offline"
SHIPPED_MODEL = "claude"  # wrote the texts that come with the project (docs/data_card.md)


def recorded_answers() -> Path:
    """The store whose answers are replayed wherever no other is named."""
    return project_root() / "records" / "llm" / "answers.jsonl"


def generate(
    task: str,
    corpus: Corpus,
    side: Side,
    ids: Sequence[str],
    *,
    generator: Generator = AUTO,
    variants: int = 1,
    seed: int = 0,
    official: bool = False,
) -> Generations:
    """Texts for documents of a side, by task (`TASKS`) and generator.

    `generator`: a `Client` asks its model, and only it may call a server; the name of a model replays its recorded
    answers, and "claude" also the texts that come with the project; "offline" needs no LLM and recombines training
    documents; "auto" replays the answers of the official model (gpt-4o-mini), else what comes with the project, and is
    "offline" where most is missing. A document without a usable answer gets no text and is reported, never given
    another generator's. `official`: see `PromptBuilder`; it concerns the LLM only. Raises ValueError for a task that is
    unknown or not for this side.
    """
    kind = task_named(task)
    if side not in kind.sides:
        raise ValueError(f"task {task!r} is asked for {kind.sides[0]}s, not for {side}s")
    builder = PromptBuilder(kind, corpus, side, seed, official)
    # 1. a language model's server
    if isinstance(generator, Client):
        return answered(builder, generator, ids, variants)
    # 2. recorded answers, or where there are more of them the texts that come with the project
    if generator != OFFLINE:
        model = DEFAULT_MODEL if generator == AUTO else generator
        found = answered(builder, Client(recorded_answers(), model=model, offline=True), ids, variants)
        if generator in (AUTO, SHIPPED_MODEL) and not official:
            found = max(found, shipped(builder, ids), key=lambda one: len(one.texts))
        if generator != AUTO or 2 * len(found.texts) >= len(ids):
            return found
    # 3. what stands in for a task of this kind without a language model
    if kind.same_side:
        return paraphrase_offline(corpus, side, ids)
    if kind.checked:
        return synthetic_offline(corpus, side, ids, variants, seed)
    return hypothetical_offline(corpus, side, ids, variants)


def answered(builder: PromptBuilder, client: Client, ids: Sequence[str], variants: int) -> Generations:
    """The answers of a client's model by document, or the first reason for having none."""
    answers = client.complete(builder.requests(ids, client.model, variants), check=builder.check)
    written: dict[str, list[str]] = {}
    for answer in answers:
        if answer.text is not None:
            written.setdefault(answer.request.about, []).append(builder.document_in(answer.text))
    reasons = {answer.request.about: str(answer.problem) for answer in reversed(answers)}
    problems = {name: reasons[name] for name in dict.fromkeys(ids) if name in reasons.keys() - written.keys()}
    return Generations(f"LLM {client.model}", written, problems)


def shipped(builder: PromptBuilder, ids: Sequence[str]) -> Generations:
    """What comes with the project, `records/llm/{task}_*.jsonl.gz`, by document.

    Each line holds the `document` that a text was written for, by its hash, the `text` and the `model` that wrote it.
    Raises ValueError naming a line without them.
    """
    kept = {}
    for file in sorted(recorded_answers().parent.glob(f"{builder.task.name}_*.jsonl.gz")):
        for line, entry in numbered_entries(file).items():
            if not {"document", "text", "model"} <= entry.keys():
                raise ValueError(f"{file}, line {line} is no answer. Restore the file, or remove the line.")
            kept[entry["document"]] = entry["text"]
    keys = {name: content_key(document=str(builder.texts[builder.side][name])) for name in (ids if kept else ())}
    written = {name: [builder.document_in(kept[key])] for name, key in keys.items() if key in kept}
    problems = dict.fromkeys((name for name in ids if name not in written), "the project has no text for it")
    return Generations(f"LLM {SHIPPED_MODEL}", written, problems)


def hypothetical_documents(task: str, corpus: Corpus, side: Side, generator: Generator, **options: Any) -> Corpus:
    """A corpus whose documents of a side carry a hypothetical document of the other side, written by `generate`.

    `task`: any that is neither `same_side` nor `checked`; for those see `paraphrase` and `synthetic_negatives`.
    """
    written = generate(task, corpus, side, corpus.documents(side).index.tolist(), generator=generator, **options)
    note = f"hypothetical {other(side)}s ({task}) for {written.report()}"
    return replace(corpus.with_hypothetical(side, written.first()), notes=(*corpus.notes, note))


@checked
def hyre(corpus: Corpus, generator: Generator = AUTO, *, seed: int = 0, official: bool = False) -> Corpus:
    """HyRe: every job carries a hypothetical resume, appended wherever `texts` or an encoder reads jobs.

    `generator`: see `generate`. An LLM is shown one accepted training pair, drawn for each job by the seed and never
    the job's own. `official`: the released prompt and its clean-up. Source: ConFit v2; src/utils/convert_by_llm.py
    and merge_json.py of the official code.

    >>> from confitlib import compose, hyre
    >>> corpus = hyre(compose("tiny").corpus)
    >>> print(corpus.jobs["hypothetical_resume"].iloc[0][:51])
    Resume Content: section title:
    Senior UX Researcher
    """
    return hypothetical_documents("hyre", corpus, "job", generator, seed=seed, official=official)


def hyjob(corpus: Corpus, generator: Generator = AUTO, *, seed: int = 0) -> Corpus:
    """HyJob: every resume carries a hypothetical job post; the mirror image of `hyre`, ours."""
    return hypothetical_documents("hyjob", corpus, "resume", generator, seed=seed)


def paraphrase(
    corpus: Corpus,
    generator: Generator = AUTO,
    *,
    count: int | None = COPIES,
    seed: int = 0,
    sides: Sequence[Side] = SIDES,
    task: str = "paraphrase",
) -> Corpus:
    """A corpus with paraphrased copies of `count` training documents of each side; copies inherit labels.

    `task`: whose prompt asks for them, one that is `same_side`.
    Source: ConFit v1 (500 resumes and 500 jobs rewritten by ChatGPT; its prompt is not published, this one is ours).
    """
    for side in sides:
        originals = draw_originals(corpus, side, count, seed)
        written = generate(task, corpus, side, originals, generator=generator, seed=seed)
        fields = {name: read_fields(text, corpus.fields(side), side) for name, text in written.first().items()}
        corpus = with_copies(corpus, side, fields, task, f"paraphrased {side}s: {written.report()}")
    return corpus


def synthetic_negatives(
    corpus: Corpus,
    generator: Generator = AUTO,
    *,
    n: int = 1,
    count: int | None = None,
    seed: int = 0,
    targets: Sequence[Side] = SIDES,
    task: str = "syneg",
) -> Corpus:
    """SyNeg: a corpus with `n` synthetic hard negatives of each target side for `count` training queries (None: all).

    `task`: whose prompt asks for them, one that is `checked`.
    They join the training split without a label; the column `negative_for` names the query, and the mining strategy
    `synthetic` picks them up. On a market they count as unsuitable for every document: the truth of a written text
    is what its writer intended. Source: SyNeg (Li et al., arXiv 2412.17250); prompt and mixing are ours.
    """
    for target in targets:
        queries = draw_originals(corpus, other(target), count, seed)
        written = generate(task, corpus, other(target), queries, generator=generator, variants=n, seed=seed)
        # 1. the written texts as rows of the target side, each with the query it was written for
        made = [(query, i, text) for query, options in written.texts.items() for i, text in enumerate(options)]
        fields = [read_fields(text, corpus.fields(target), target) for _, _, text in made]
        frame = corpus.documents(target)
        names = pd.Index([f"{task}-{query}-{i}" for query, i, _ in made], name=frame.index.name)
        rows = pd.DataFrame(fields, index=names, columns=list(dict.fromkeys([*frame.columns, NEGATIVE_FOR]))).fillna("")
        rows = rows.assign(split="train", **{NEGATIVE_FOR: [query for query, _, _ in made]})
        # 2. they join the training split, without a label
        note = f"synthetic negatives: {counted(len(rows), target)}; for {written.report()}"
        corpus = _add_documents(corpus, target, rows, {}, note)
    return corpus


def with_copies(corpus: Corpus, side: Side, fields: Mapping[str, Mapping[Any, str]], tag: str, note: str) -> Corpus:
    """A corpus with one more training document for every original in `fields` (id to its rewritten fields).

    A copy is called `{tag}-{original}`, names its original in `copy_of` and repeats its training labels; fields
    that are not rewritten are kept. On a market, a copy is suitable for whatever its original is suitable for.
    Source: ConFit v1, where an augmented document inherits the labels of its original. Raises ValueError where
    an id is taken.
    """
    frame, names = corpus.documents(side), {name: f"{tag}-{name}" for name in fields}
    taken = frame.index.intersection(list(names.values()))
    if len(taken):
        raise ValueError(f"{side} {taken[0]!r} is there already: these copies were made before, use another tag")
    rows = frame.loc[list(names)].assign(split="train", **{COPY_OF: list(names)})
    rows.update(pd.DataFrame.from_dict(dict(fields), orient="index"))
    return _add_documents(corpus, side, rows.rename(index=names), names, note)


def _add_documents(corpus: Corpus, side: Side, rows: pd.DataFrame, copies: Mapping[str, str], note: str) -> Corpus:
    """A corpus with more documents: `copies`, by original, repeat training labels and truth; others suit nobody."""
    frame = pd.concat([corpus.documents(side), rows]).fillna({COPY_OF: "", NEGATIVE_FOR: ""})
    labels, column, truth = corpus.labelled("train"), f"{side}_id", corpus.truth
    labels = labels[labels[column].isin(copies)]
    labels = pd.concat([corpus.labels, labels.assign(**{column: labels[column].map(copies)})], ignore_index=True)
    if truth is not None:  # [documents of the side, documents of the other side]
        known = csr_array(truth if side == "resume" else truth.T)
        more = known[corpus.positions(side, copies)] if copies else csr_array((len(rows), known.shape[1]), dtype=bool)
        grown = csr_array(vstack([known, more]))
        truth = csr_array(grown if side == "resume" else grown.T)
    return corpus.with_documents(side, frame, labels=labels, truth=truth, notes=(*corpus.notes, note))


def counted(count: int, side: Side) -> str:
    """ "1 resume", "500 jobs"."""
    return f"{count:,} {side}{'' if count == 1 else 's'}"


def shared_words(corpus: Corpus, resume_ids: Sequence[str], job_ids: Sequence[str], hyre: bool = False) -> np.ndarray:
    """For pairs of ids, the share of the job's distinct words that the resume holds, `[n]`.

    `hyre`: count the words of hypothetical texts as well.
    """
    resumes, jobs = texts(corpus, "resume", hyre=hyre), texts(corpus, "job", hyre=hyre)
    spoken = {name: set(words(resumes[name])) for name in set(resume_ids)}
    asked = {name: set(words(jobs[name])) for name in set(job_ids)}
    pairs = zip(resume_ids, job_ids, strict=True)
    return np.array([len(asked[job] & spoken[resume]) / max(1, len(asked[job])) for resume, job in pairs])


def vocabulary_gap(corpus: Corpus, split: Split = "test", n: int = 500, seed: int = 0) -> pd.DataFrame:
    """Shared words of matching pairs and of as many others: columns `pairs`, `resume_id`, `job_id`, `shared`.

    Matching pairs are at most `n` accepted ones of a split, drawn by seed; the others put the same resumes to the
    same jobs in another order and hold no accepted pair.
    """
    rng, accepted = np.random.default_rng(seed), corpus.labelled(split, 1)[["resume_id", "job_id"]]
    matching = accepted.iloc[np.sort(rng.choice(len(accepted), min(n, len(accepted)), replace=False))]
    shuffled = matching.assign(job_id=rng.permutation(matching["job_id"].to_numpy()))
    others = shuffled[~pd.MultiIndex.from_frame(shuffled).isin(pd.MultiIndex.from_frame(accepted))]
    table = pd.concat({"matching": matching, "other": others}, names=["pairs"]).reset_index(level=0)
    shared = shared_words(corpus, table["resume_id"].tolist(), table["job_id"].tolist())
    return table.assign(shared=shared).reset_index(drop=True)
