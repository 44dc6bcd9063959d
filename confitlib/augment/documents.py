"""The augmentations: each takes a corpus and returns one with more text or more documents, noted as what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from confitlib.augment.copies import add_documents, draw_originals, side_name, with_copies
from confitlib.augment.tasks import COPIES
from confitlib.augment.writing import AnyWriter, write
from confitlib.corpus import NEGATIVE_FOR, SIDES, Corpus, Side, other
from confitlib.text import read_fields


def hyre(
    corpus: Corpus, writer: AnyWriter = "auto", *, seed: int = 0, shots: int = 1, official: bool = False
) -> Corpus:
    """HyRe: every job carries a hypothetical resume, appended wherever `texts` or an encoder reads jobs.

    `writer`: see `write`. `shots`: accepted training pairs that an LLM is shown, drawn for each job by the seed and
    never the job's own; `official`: the released prompt (one pair) and its clean-up. Source: ConFit v2;
    src/utils/convert_by_llm.py and merge_json.py of the official code.
    """
    return _with_hypothetical("hyre", corpus, "job", writer, seed=seed, shots=shots, official=official)


def hyjob(corpus: Corpus, writer: AnyWriter = "auto", *, seed: int = 0, shots: int = 1) -> Corpus:
    """HyJob: every resume carries a hypothetical job post; the mirror image of `hyre`, ours."""
    return _with_hypothetical("hyjob", corpus, "resume", writer, seed=seed, shots=shots)


def _with_hypothetical(task: str, corpus: Corpus, side: Side, writer: AnyWriter, **options: Any) -> Corpus:
    written = write(task, corpus, side, list(corpus.documents(side).index), writer=writer, **options)
    note = f"hypothetical {other(side)}s ({task}) for {written.report()}"
    told = corpus.with_hypothetical(side, written.first())
    return replace(told, notes=(*corpus.notes, note))


def paraphrase(
    corpus: Corpus,
    writer: AnyWriter = "auto",
    *,
    count: int | None = COPIES,
    seed: int = 0,
    sides: Sequence[Side] = SIDES,
) -> Corpus:
    """A corpus with paraphrased copies of `count` training documents of each side; copies inherit labels.

    Source: ConFit v1 (500 resumes and 500 jobs rewritten by ChatGPT; its prompt is not published, this one is ours).
    """
    for side in sides:
        written = write("paraphrase", corpus, side, draw_originals(corpus, side, count, seed), writer=writer, seed=seed)
        fields = {name: read_fields(text, corpus.fields(side), side) for name, text in written.first().items()}
        corpus = with_copies(corpus, side, fields, "paraphrase", f"paraphrased {side}s: {written.report()}")
    return corpus


def synthetic_negatives(
    corpus: Corpus,
    writer: AnyWriter = "auto",
    *,
    n: int = 1,
    count: int | None = None,
    seed: int = 0,
    targets: Sequence[Side] = SIDES,
) -> Corpus:
    """SyNeg: a corpus with `n` synthetic hard negatives of each target side for `count` training queries (None: all).

    They join the training split without a label; the column `negative_for` names the query, and the mining strategy
    `synthetic` picks them up. On a market they count as unsuitable for every document: the truth of a written text
    is what its writer intended. Source: SyNeg (Li et al., arXiv 2412.17250); prompt and mixing are ours.
    """
    for target in targets:
        queries = draw_originals(corpus, other(target), count, seed)
        written = write("syneg", corpus, other(target), queries, writer=writer, variants=n, seed=seed)
        texts = {(query, i): text for query, options in written.texts.items() for i, text in enumerate(options)}
        fields = [read_fields(text, corpus.fields(target), target) for text in texts.values()]
        names = [f"syneg-{query}-{i}" for query, i in texts]
        frame = corpus.documents(target)
        rows = pd.DataFrame(fields, index=pd.Index(names, name=frame.index.name), columns=corpus.fields(target))
        rows = rows.assign(split="train", **{NEGATIVE_FOR: [query for query, _ in texts]})
        rows = rows.reindex(columns=list(dict.fromkeys([*frame.columns, NEGATIVE_FOR]))).fillna("")
        note = f"synthetic negatives: {side_name(target, len(rows))}; for {written.report()}"
        corpus = add_documents(corpus, target, rows, corpus.labels.iloc[:0], None, note)
    return corpus
