"""The tasks without a language model: training documents retrieved and recombined. Ours; stand-ins named as such."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from confitlib.augment.tasks import AcceptedPairs, Generations
from confitlib.corpus import Corpus, Side, other
from confitlib.text import TEXT, join_fields, serialise, texts, words
from confitlib.util import generator_of

OFFLINE = "offline writer (retrieval, no LLM)"
LIKE, EQUAL = 0.3, 0.9  # cosines between which a line may stand in for another
ROWS, STRANGERS = 512, 10

Section = tuple[str, str]


def hypothetical_offline(
    corpus: Corpus, side: Side, ids: Sequence[str], variants: int = 1, neighbours: int = 5
) -> Generations:
    """What the nearest training documents were accepted with, recombined section by section.

    For a job: the `neighbours` nearest distinct resumes, taken from the accepted pairs of the training jobs most
    similar to it (cosine of TF-IDF); then, for each section of the nearest, that section of whichever of them is
    most similar to the job. Variant i takes the i-th `neighbours` resumes; there are fewer where the training split
    has no more to offer. A document never sees the pairs of its own (`AcceptedPairs`). Works the same for resumes.
    It draws nothing, so it needs no seed.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours={neighbours} must be at least 1")
    accepted = AcceptedPairs(corpus, side)
    partner = accepted.pairs["partner"].to_numpy()
    # 1. TF-IDF of the documents [n, words], of the sections that may be used [sections, words]
    own, theirs = texts(corpus, side, hyre=False), texts(corpus, other(side), hyre=False)
    sections = sections_of(corpus, other(side), list(dict.fromkeys(partner)))
    vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
    vectorizer.fit([*own.loc[corpus.pool(side, "train")], *theirs.loc[list(sections)]])
    vectors = csr_array(vectorizer.transform(own))
    parts = csr_array(vectorizer.transform([text for one in sections.values() for _, text in one]))
    stops = dict(zip(sections, np.cumsum([len(one) for one in sections.values()]).tolist(), strict=True))
    # 2. cosines with the training documents that were accepted with somebody [rows, training documents]
    names, place = np.unique(accepted.pairs["own"], return_inverse=True)
    pool = vectors[own.index.get_indexer(pd.Index(names))].T
    rows = own.index.get_indexer(pd.Index(ids))
    written: dict[str, list[str]] = {}
    sources: dict[str, list[str]] = {}
    for i, name in enumerate(ids):
        if i % ROWS == 0:
            similar = (vectors[rows[i : i + ROWS]] @ pool).toarray()
        # 3. the nearest partners, each once
        allowed = accepted.allowed(name)
        order = allowed[np.argsort(-similar[i % ROWS][place[allowed]], kind="stable")]
        sources[name] = list(dict.fromkeys(partner[order].tolist()))[: neighbours * variants]
        # 4. each section of the first of them, in the version that is most similar to the document
        for start in range(0, len(sources[name]), neighbours):
            best: dict[str, tuple[float, str]] = {}
            nearest = sources[name][start : start + neighbours]
            for one in nearest:
                likeness = parts[stops[one] - len(sections[one]) : stops[one]] @ vectors[rows[[i]]].T
                for (key, text), score in zip(sections[one], likeness.toarray()[:, 0].tolist(), strict=True):
                    if key not in best or score > best[key][0]:
                        best[key] = score, text
            merged = [(key, best[key][1]) for key, _ in sections[nearest[0]]]
            written.setdefault(name, []).append(join_sections(corpus, other(side), merged))
    problems = dict.fromkeys((name for name in ids if name not in written), "no training pair it may see")
    return Generations(OFFLINE, written, problems, sources)


def paraphrase_offline(corpus: Corpus, side: Side, ids: Sequence[str]) -> Generations:
    """Every line of a document replaced by the most similar line that the same field of another one holds.

    Lines are those of training documents; a line stays where none has a TF-IDF cosine from 0.3 up to 0.9 with it
    (a more similar one differs in a number at most). This keeps the subject, not every fact. It draws nothing, and
    gives one text a document.
    """
    frame = corpus.documents(side)[corpus.fields(side)].astype("str").fillna("")
    rewritten, training = frame.loc[list(ids)], frame.loc[corpus.pool(side, "train")]
    for field in frame.columns:
        # 1. the distinct lines of the documents and of the training documents
        cut = [part[field].str.split("\n").explode() for part in (rewritten, training)]
        asked, pool = (part[part.str.strip() != ""].unique().tolist() for part in cut)
        # 2. the line that may stand in for each, if the field has words at all
        similar: dict[str, str] = {}
        if any(map(words, pool)):
            vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True).fit(pool)
            vectors = vectorizer.transform(pool).T
            for block in (asked[start : start + ROWS] for start in range(0, len(asked), ROWS)):
                likeness = (vectorizer.transform(block) @ vectors).toarray()  # [block, pool]
                likeness[likeness > EQUAL] = 0
                best = zip(block, likeness.max(axis=1), likeness.argmax(axis=1), strict=True)
                similar |= {line: pool[place] for line, score, place in best if score >= LIKE}
        # 3. the documents with these lines
        lines = rewritten[field].str.split("\n")
        rewritten[field] = lines.map(lambda one, to=similar: "\n".join(to.get(line, line) for line in one))
    return Generations(OFFLINE, {str(name): [text] for name, text in serialise(rewritten, side).items()})


def synthetic_offline(corpus: Corpus, side: Side, ids: Sequence[str], variants: int = 1, seed: int = 0) -> Generations:
    """Near misses: an accepted document with half of its sections taken from a similar stranger.

    For a query of `side`: one of the documents it was accepted with and a stranger, drawn by seed from the ten
    accepted documents of other queries that are most similar to it (TF-IDF). Every second section comes from the
    stranger. Self-check: the result must be less similar to the query than the accepted document it was made from,
    else the query gets none.
    """
    accepted = AcceptedPairs(corpus, side)
    own, theirs = texts(corpus, side, hyre=False), texts(corpus, other(side), hyre=False)
    partner = accepted.pairs["partner"].to_numpy()
    pool = list(dict.fromkeys(partner))
    sections = sections_of(corpus, other(side), pool)
    vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True).fit(theirs.loc[pool])
    vectors = vectorizer.transform(theirs.loc[pool])

    written: dict[str, list[str]] = {}
    problems: dict[str, str] = {}
    for name in ids:
        bases, foreign = partner[accepted.pairs["own"] == name], set(partner[accepted.allowed(name)])
        rng = generator_of(seed, name)
        for _ in range(variants if len(bases) else 0):
            # 1. one of the accepted documents, and the strangers that are most like it
            base = bases[rng.integers(len(bases))]
            likeness = (vectors @ vectors[[pool.index(base)]].T).toarray()[:, 0]
            order = np.argsort(-likeness, kind="stable").tolist()
            strangers = [pool[place] for place in order if pool[place] in foreign][:STRANGERS]
            if not strangers:
                continue
            # 2. every second section of the one replaced by that of a stranger
            stranger = dict(sections[strangers[rng.integers(len(strangers))]])
            mixed = [(key, stranger.get(key, text) if i % 2 else text) for i, (key, text) in enumerate(sections[base])]
            text = join_sections(corpus, other(side), mixed)
            # 3. self-check
            query, crossed, original = vectorizer.transform([own[name], text, theirs[base]])
            if float((query @ crossed.T).sum()) < float((query @ original.T).sum()):
                written.setdefault(name, []).append(text)
        if name not in written:
            reason = "no near miss that passes the self-check"
            problems[name] = reason if len(bases) else "no accepted document to start from"
    return Generations(OFFLINE, written, problems)


def sections_of(corpus: Corpus, side: Side, ids: Sequence[str]) -> dict[str, list[Section]]:
    """The sections of documents by name: their fields, or the paragraphs of a single text, whose names are numbers."""
    fields, sections = corpus.fields(side), {}
    rows = corpus.documents(side).loc[list(ids), fields].astype("str").fillna("").to_numpy().tolist()
    for name, row in zip(ids, rows, strict=True):
        sections[name] = list(zip(fields, row, strict=True))
        if fields == [TEXT]:  # paragraphs, or lines where no blank line parts the text
            (text,) = row
            parts = map(str.strip, text.split("\n\n")) if "\n\n" in text else text.split("\n")
            sections[name] = [(str(place), part) for place, part in enumerate(filter(str.strip, parts))]
    return sections


def join_sections(corpus: Corpus, side: Side, sections: Sequence[Section]) -> str:
    """The text of a document made of sections."""
    if corpus.fields(side) == [TEXT]:
        return "\n".join(text for _, text in sections).strip()
    return join_fields(dict(sections), side)
