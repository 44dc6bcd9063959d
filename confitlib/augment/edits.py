"""EDA: copies of documents with words replaced, inserted, swapped or deleted, line by line."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from confitlib.augment.documents import counted, with_copies
from confitlib.augment.tasks import COPIES, draw_originals, language_of_corpus
from confitlib.corpus import SIDES, Corpus, Side
from confitlib.text import Language, language_of, pieces

RATE = 0.1  # share of a line's words that one operation touches; src/preprocess/augmentation.py of the official code
SHORT: dict[Language, int] = {"en": 30, "zh": 10}
WORDNET: dict[Language, str] = {"en": "eng", "zh": "cmn"}

Synonyms = Callable[[str], list[str]]


def eda(corpus: Corpus, count: int | None = COPIES, seed: int = 42, sides: Sequence[Side] = SIDES) -> Corpus:
    """A corpus with EDA copies of `count` training documents of each side; copies inherit labels.

    Every line gets one operation, drawn by the seed; lines shorter than 30 characters (10 in Chinese) stay as they
    are. Without WordNet data there are no synonyms: the operations are then insertion (of a word of the same line:
    our choice), swap and deletion, and the corpus's notes say so.
    Source: Wei & Zou 2019; ConFit v1, src/preprocess/augmentation.py (0.1 each, 500 documents a side, seed 42;
    of two variants it keeps the second, which comes to one operation at random).
    """
    for side in sides:
        rng, written = np.random.default_rng([seed, SIDES.index(side)]), corpus.documents(side)[corpus.fields(side)]
        rows = written.dropna(axis=1, how="all").loc[draw_originals(corpus, side, count, seed)].astype("str").fillna("")
        rewritten = {str(name): row.map(eda_text, rng=rng).to_dict() for name, row in rows.iterrows()}
        how = "without synonyms (no WordNet data here): insertion, swap and deletion only"
        how = "with WordNet synonyms" if synonyms_in(language_of_corpus(corpus, side)) else how
        corpus = with_copies(corpus, side, rewritten, "eda", f"EDA copies of {counted(len(rewritten), side)}, {how}")
    return corpus


def eda_text(text: str, rng: np.random.Generator) -> str:
    """A text with one operation in each of its lines that is long enough."""
    language = language_of(text)
    lines = text.split("\n")
    return "\n".join(line if len(line) < SHORT[language] else eda_line(line, rng, language) for line in lines)


def eda_line(line: str, rng: np.random.Generator, language: Language) -> str:
    """A line after one operation; a mark such as "- " at its start stays in place."""
    # 1. the words, how many of them change, and the operation that is drawn
    body = line.lstrip(" \t-*•·")
    tokens, synonyms = pieces(body, language), synonyms_in(language)
    operations = ["insert", "swap", "delete"] if synonyms is None else ["insert", "swap", "delete", "replace"]
    times = max(1, int(RATE * len(tokens))) if tokens else 0  # at least one word, as in the published EDA
    operation, changed = operations[rng.integers(len(operations))], list(tokens)
    # 2. the operation
    if operation == "insert":
        for _ in range(times):
            word = tokens[int(rng.integers(len(tokens)))]
            options = (synonyms(word) if synonyms else []) or [word]
            changed.insert(int(rng.integers(len(changed) + 1)), options[rng.integers(len(options))])
    elif operation == "swap":
        for _ in range(times if len(changed) > 1 else 0):
            first, second = rng.choice(len(changed), 2, replace=False)
            changed[first], changed[second] = changed[second], changed[first]
    elif operation == "delete":  # every word with a chance of 0.1; one stays in any case
        rest = [token for token, roll in zip(tokens, rng.random(len(tokens)), strict=True) if roll >= RATE]
        changed = rest or tokens[:1]
    elif synonyms:
        for place in rng.permutation(len(tokens)):
            options = synonyms(tokens[place])
            if times and options:
                changed[place], times = options[rng.integers(len(options))], times - 1
    # 3. the line again, with its mark
    return line[: len(line) - len(body)] + (" " if language == "en" else "").join(changed)


@cache
def synonyms_in(language: Language) -> Synonyms | None:
    """Synonyms by WordNet, or None where nltk or its data (wordnet; omw-1.4 for Chinese) is not installed.

    Stop words and, in Chinese, single characters have none (our choice).
    """
    # 1. is WordNet here, with words of this language
    code = WORDNET[language]
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
        if code not in wordnet.langs():
            return None
    except (ImportError, LookupError):
        return None

    # 2. the words of all meanings that a word has
    @cache
    def synonyms(word: str) -> list[str]:
        if word.lower() in ENGLISH_STOP_WORDS or (language == "zh" and len(word) < 2):
            return []
        names = {name for synset in wordnet.synsets(word, lang=code) for name in synset.lemma_names(code)}
        return sorted({name.replace("_", " ") for name in names if name.lower() != word.lower()})

    return synonyms
