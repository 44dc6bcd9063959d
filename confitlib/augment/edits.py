"""EDA: copies of documents with words replaced, inserted, swapped or deleted, line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from confitlib.augment.copies import draw_originals, side_name, with_copies
from confitlib.augment.prompts import language_of_corpus
from confitlib.augment.tasks import COPIES
from confitlib.corpus import SIDES, Corpus, Side
from confitlib.text import Language, language_of, pieces

SHORT: dict[Language, int] = {"en": 30, "zh": 10}
WORDNET: dict[Language, str] = {"en": "eng", "zh": "cmn"}

Synonyms = Callable[[str], list[str]]


@dataclass(frozen=True)
class Rates:
    """Shares of a line's words that are replaced by synonyms, inserted and swapped, and the chance of deletion.

    Source of the defaults: src/preprocess/augmentation.py of the official code.
    """

    replace: float = 0.1
    insert: float = 0.1
    swap: float = 0.1
    delete: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must lie between 0 and 1")


def eda(
    corpus: Corpus,
    count: int | None = COPIES,
    seed: int = 42,
    rates: Rates = Rates(),
    fields: dict[Side, Sequence[str]] | None = None,
    sides: Sequence[Side] = SIDES,
) -> Corpus:
    """A corpus with EDA copies of `count` training documents of each side; copies inherit labels.

    Every line of the chosen `fields` (default: all) gets one operation, drawn by the seed; lines shorter than 30
    characters (10 in Chinese) stay as they are. Without WordNet data there are no synonyms: the operations are
    then insertion (of a word of the same line: our choice), swap and deletion, and the corpus's notes say so.
    Source: Wei & Zou 2019; ConFit v1, src/preprocess/augmentation.py (0.1 each, 500 documents a side, seed 42;
    of two variants it keeps the second, which comes to one operation at random).
    """
    for side in sides:
        chosen = list((fields or {}).get(side, corpus.fields(side)))
        unknown = sorted(set(chosen) - set(corpus.fields(side)))
        if unknown:
            raise KeyError(f"fields {unknown}: corpus {corpus.name!r} has {corpus.fields(side)} for {side}s")
        rng = np.random.default_rng([seed, SIDES.index(side)])
        rows = corpus.documents(side).loc[draw_originals(corpus, side, count, seed), chosen]
        rewritten = {
            str(name): {field: eda_text(str(text), rng, rates) for field, text in zip(chosen, row, strict=True)}
            for name, *row in rows.fillna("").itertuples(name=None)
        }
        note = f"EDA copies of {side_name(side, len(rewritten))}, {_how(corpus, side)}"
        corpus = with_copies(corpus, side, rewritten, "eda", note)
    return corpus


def eda_text(text: str, rng: np.random.Generator, rates: Rates = Rates()) -> str:
    """A text with one operation in each of its lines that is long enough."""
    language = language_of(text)
    lines = text.split("\n")
    return "\n".join(line if len(line) < SHORT[language] else eda_line(line, rng, rates, language) for line in lines)


def eda_line(line: str, rng: np.random.Generator, rates: Rates, language: Language) -> str:
    """A line after one operation; a mark such as "- " at its start stays in place."""
    mark, body = _mark(line)
    tokens, synonyms = pieces(body, language), synonyms_in(language)
    operations: list[Callable[[], list[str]]] = [
        lambda: _inserted(tokens, rng, _times(rates.insert, tokens), synonyms),
        lambda: _swapped(tokens, rng, _times(rates.swap, tokens)),
        lambda: _deleted(tokens, rng, rates.delete),
    ]
    if synonyms is not None:
        known = synonyms
        operations.append(lambda: _replaced(tokens, rng, _times(rates.replace, tokens), known))
    changed = operations[rng.integers(len(operations))]()
    return mark + (" " if language == "en" else "").join(changed)


def _mark(line: str) -> tuple[str, str]:
    body = line.lstrip(" \t-*•·")
    return line[: len(line) - len(body)], body


def _times(rate: float, tokens: Sequence[str]) -> int:
    """How many words an operation touches: at least one, as in the published EDA, unless its rate is zero."""
    return 0 if rate == 0 or not tokens else max(1, int(rate * len(tokens)))


def _swapped(tokens: Sequence[str], rng: np.random.Generator, times: int) -> list[str]:
    changed = list(tokens)
    for _ in range(times if len(changed) > 1 else 0):
        first, second = rng.choice(len(changed), 2, replace=False)
        changed[first], changed[second] = changed[second], changed[first]
    return changed


def _deleted(tokens: Sequence[str], rng: np.random.Generator, chance: float) -> list[str]:
    """Every word goes with the given chance; one stays in any case."""
    kept = [token for token, roll in zip(tokens, rng.random(len(tokens)), strict=True) if roll >= chance]
    return kept or list(tokens[:1])


def _inserted(tokens: Sequence[str], rng: np.random.Generator, times: int, synonyms: Synonyms | None) -> list[str]:
    changed = list(tokens)
    for _ in range(times):
        word = tokens[int(rng.integers(len(tokens)))]
        options = (synonyms(word) if synonyms else None) or [word]
        changed.insert(int(rng.integers(len(changed) + 1)), options[rng.integers(len(options))])
    return changed


def _replaced(tokens: Sequence[str], rng: np.random.Generator, times: int, synonyms: Synonyms) -> list[str]:
    changed, done = list(tokens), 0
    for place in rng.permutation(len(tokens)):
        options = synonyms(tokens[place])
        if done < times and options:
            changed[place], done = options[rng.integers(len(options))], done + 1
    return changed


@cache
def synonyms_in(language: Language) -> Synonyms | None:
    """Synonyms by WordNet, or None where nltk or its data (wordnet; omw-1.4 for Chinese) is not installed.

    Stop words and, in Chinese, single characters have none (our choice).
    """
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
        if WORDNET[language] not in wordnet.langs():
            return None
    except (ImportError, LookupError):
        return None
    return cache(lambda word: sorted(set(_synonyms(wordnet, word, language))))


def _synonyms(wordnet: object, word: str, language: Language) -> Iterator[str]:
    if word.lower() in ENGLISH_STOP_WORDS or (language == "zh" and len(word) < 2):
        return
    for synset in wordnet.synsets(word, lang=WORDNET[language]):  # type: ignore[attr-defined]
        for name in synset.lemma_names(WORDNET[language]):
            if name.lower() != word.lower():
                yield name.replace("_", " ")


def _how(corpus: Corpus, side: Side) -> str:
    language = language_of_corpus(corpus, side)
    if synonyms_in(language):
        return "with WordNet synonyms"
    return "without synonyms (no WordNet data here): insertion, swap and deletion only"
