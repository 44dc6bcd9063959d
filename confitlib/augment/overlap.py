"""The vocabulary gap: how many words of a job its resumes use too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from confitlib.corpus import Corpus, Split
from confitlib.text import texts, words


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
    known = set(map(tuple, accepted.to_numpy()))
    others = shuffled[[pair not in known for pair in map(tuple, shuffled.to_numpy())]]
    table = pd.concat({"matching": matching, "other": others}, names=["pairs"]).reset_index(level=0)
    shared = shared_words(corpus, table["resume_id"].tolist(), table["job_id"].tolist())
    return table.assign(shared=shared).reset_index(drop=True)
