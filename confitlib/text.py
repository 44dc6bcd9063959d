"""Documents as text: the official field serialisation, words in English and Chinese, BM25 over words."""

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import HYPOTHETICAL, Corpus, Side
from confitlib.util import checked

Language = Literal["en", "zh"]
Variant = Literal["okapi", "bm25l"]

MARKS: dict[Side, str] = {"job": "[Example resume]", "resume": "[Example job]"}
TEXT = "text"
SOURCES: dict[Side, dict[Language, str]] = {
    "resume": {"en": "Resume Content", "zh": "简历信息"},
    "job": {"en": "Job Information", "zh": "职位信息"},
}
CHINESE_SHARE = 0.2
CJK = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
# Marks such as vowel signs belong to the letter before them, which \w does not know.
COMBINING = "".join(sign for sign in map(chr, range(0x300, 0x10000)) if unicodedata.category(sign) in ("Mn", "Mc"))
WORD = re.compile(f"\\w[\\w{COMBINING}]*[+#]*")  # the signs keep "c++" and "c#" apart from "c"
SENTENCE_END = re.compile(r"\n+|(?<=[.!?;])\s+(?![a-z])|(?<=[。！？；])")
BM25_METHODS = {"okapi": "robertson", "bm25l": "bm25l"}
BULLET = re.compile(r"^[\s\-*•·–]+")


@checked
def texts(corpus: Corpus, side: Side, hyre: bool = True, fields: Sequence[str] | None = None) -> pd.Series:
    """Every document of a side as one text; the index holds the ids, in frame order.

    Fields follow the official format `{source}: section {field}:\\n{value}\\n` of ConFit-v2
    (src/preprocess/dataset.py, encode_all); a lone field named `text` is used as it is. With
    `hyre`, a job's hypothetical resume is appended after `[Example resume]` (merge_json.py), and a resume's
    hypothetical job after `[Example job]` (HyJob, ours).
    `fields` selects and orders the fields (default: all). Raises KeyError on an unknown field.

    >>> from confitlib import compose, texts
    >>> print(texts(compose("tiny").corpus, "job", fields=["title", "location"]).iloc[0])
    Job Information: section title:
    Mixed-Methods Researcher
    Job Information: section location:
    Manchester
    """
    chosen = list(corpus.fields(side) if fields is None else fields)
    unknown = [name for name in chosen if name not in corpus.fields(side)]
    if unknown or not chosen:
        raise KeyError(f"fields {unknown or chosen}: corpus {corpus.name!r} has {corpus.fields(side)} for {side}s")
    frame = corpus.documents(side)
    serialised = serialise(frame[chosen], side)
    if hyre and HYPOTHETICAL[side] in frame.columns:
        hypothetical = frame[HYPOTHETICAL[side]].astype("str").fillna("")
        serialised = serialised.where(hypothetical == "", serialised + f"\n{MARKS[side]}\n" + hypothetical)
    return serialised.rename(TEXT)


def serialise(frame: pd.DataFrame, side: Side) -> pd.Series:
    """The rows of a frame of text fields as one text each, in the format of `texts`; a missing cell is empty."""
    rows: list[Any] = frame.astype("str").fillna("").to_dict("records")
    return pd.Series([join_fields(row, side) for row in rows], index=frame.index, dtype="str")


def headings_of(fields: Sequence[str], side: Side) -> dict[str, str]:
    """The line that opens each field in the official format."""
    source = SOURCES[side][language_of("".join(map(str, fields)))]
    return {name: f"{source}: section {name}:" for name in fields}


def join_fields(values: Mapping[str, str], side: Side) -> str:
    """One document in the official format from its fields, as `texts` gives it."""
    if list(values) == [TEXT]:
        return values[TEXT]
    headings = headings_of(list(values), side)
    return "".join(f"{headings[name]}\n{value}\n" for name, value in values.items())


def read_fields(text: str, fields: Sequence[str], side: Side) -> dict[str, str]:
    """The fields of a text in the official format: the inverse of `texts`, white space at their ends aside.

    Raises ValueError naming the first heading that is missing, repeated or out of order.
    """
    if list(fields) == [TEXT]:
        return {TEXT: text.strip()}
    headings, values, rest = headings_of(fields, side), [], "\n" + text
    for name in fields:
        before, *after = rest.split(f"\n{headings[name]}", 1)
        if not after:
            raise ValueError(f"the line {headings[name]!r} is missing, or not in its place")
        values.append(before.strip())
        rest = after[0]
    if values[0] or any(f"\n{line}" in "\n".join(["", *values, rest]) for line in headings.values()):
        raise ValueError("text before the first heading, or a heading that is repeated")
    return dict(zip(fields, [*values[1:], rest.strip()], strict=True))


def language_of(text: str) -> Language:
    """Chinese ("zh") when more than a fifth of the characters are CJK, else English ("en").

    White space does not count. The threshold is the official one (src/preprocess/augmentation.py).
    """
    if text.isascii():
        return "en"
    return "zh" if len(CJK.findall(text)) > CHINESE_SHARE * len("".join(text.split())) else "en"


def sentences(text: str) -> list[str]:
    """The lines and sentences of a text in order, bullets and blanks dropped.

    A full stop ends a sentence when white space and no lower-case letter follow, so "e.g. this" stays whole.
    """
    return list(filter(None, (BULLET.sub("", piece).strip() for piece in SENTENCE_END.split(text))))


def words(text: str) -> list[str]:
    """The lowercased words of a text, punctuation dropped; Chinese is segmented by jieba.

    A letter with an accent is one character, however it is stored (Unicode NFC). Raises ImportError
    when Chinese text is met and jieba is not installed.
    """
    text = unicodedata.normalize("NFC", text).lower()
    parts = [text] if language_of(text) == "en" else pieces(text, "zh")
    return [word for part in parts for word in WORD.findall(part.replace("_", " "))]


def pieces(text: str, language: Language) -> list[str]:
    """A line cut into words with their punctuation: at white space in English, by jieba in Chinese."""
    if language == "en":
        return text.split()
    try:
        import jieba
    except ImportError as error:
        raise ImportError("Chinese text needs jieba: pip install confitlib[zh]") from error
    jieba.setLogLevel(logging.WARNING)  # its dictionary-loading messages are not the reader's
    return jieba.lcut(text)


class WordIndex:
    """BM25 scores of documents, given as lists of words, for a query of words.

    `variant`: "okapi" (ConFit v2's choice) or "bm25l" (ConFit v1's). `unique` counts every word of the query once;
    the official scripts count it as often as it occurs.
    """

    def __init__(self, documents: Sequence[list[str]], variant: Variant = "okapi", unique: bool = False) -> None:
        import bm25s  # takes seconds, and only this class needs it

        self.unique = unique
        self._index = bm25s.BM25(method=BM25_METHODS[variant], k1=1.5, b=0.75, delta=0.5)
        self._size, self._worded = len(documents), any(documents)
        if self._worded:
            self._index.index(list(documents), show_progress=False)

    def scores(self, query: Sequence[str]) -> NDArray[np.float32]:
        """BM25 of every document, `[n_documents]`."""
        if not self._worded:
            return np.zeros(self._size, dtype=np.float32)
        counted = list(dict.fromkeys(query) if self.unique else query)
        return np.asarray(self._index.get_scores(counted), dtype=np.float32)
