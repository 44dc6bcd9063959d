"""Documents as text: the official field serialisation, and word tokenisers for English and Chinese."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache, reduce
from operator import add
from typing import Literal

import pandas as pd

from confitlib.corpus import HYRE, Corpus, Side

Language = Literal["en", "zh"]

HYRE_MARK = "[Example resume]"
TEXT = "text"
SOURCES: dict[Side, dict[Language, str]] = {
    "resume": {"en": "Resume Content", "zh": "简历信息"},
    "job": {"en": "Job Information", "zh": "职位信息"},
}
CHINESE_SHARE = 0.2
CJK = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
WORD = re.compile(r"[^\W_]+[+#]*")  # the signs keep "c++" and "c#" apart from "c"


def texts(corpus: Corpus, side: Side, hyre: bool = True, fields: Sequence[str] | None = None) -> pd.Series:
    """Every document of a side as one text; the index holds the ids, in frame order.

    Fields follow the official format `{source}: section {field}:\\n{value}\\n` of ConFit-v2
    (src/preprocess/dataset.py, encode_all); a lone field named `text` is used as it is. With
    `hyre`, a job's hypothetical resume is appended after `[Example resume]` (merge_json.py).
    `fields` selects and orders the fields (default: all). Raises KeyError on an unknown field.
    """
    chosen = list(corpus.fields(side) if fields is None else fields)
    unknown = [name for name in chosen if name not in corpus.fields(side)]
    if unknown or not chosen:
        raise KeyError(f"fields {unknown or chosen}: corpus {corpus.name!r} has {corpus.fields(side)} for {side}s")
    frame = corpus.documents(side)
    serialised = serialise(frame[chosen], side)
    if hyre and side == "job" and HYRE in frame.columns:
        serialised = _append_hyre(serialised, frame[HYRE].astype("str").fillna(""))
    return serialised.rename(TEXT)


def serialise(frame: pd.DataFrame, side: Side) -> pd.Series:
    """The rows of a frame of text fields as one text each, in the format of `texts`; a missing cell is empty."""
    frame = frame.astype("str").fillna("")
    if list(frame.columns) == [TEXT]:
        return frame[TEXT]
    source = SOURCES[side][language_of("".join(map(str, frame.columns)))]
    parts = [f"{source}: section {column}:\n" + frame[column] + "\n" for column in frame.columns]
    return reduce(add, parts)


def _append_hyre(jobs: pd.Series, hypothetical: pd.Series) -> pd.Series:
    return jobs.where(hypothetical == "", jobs + f"\n{HYRE_MARK}\n" + hypothetical)


def language_of(text: str) -> Language:
    """Chinese ("zh") when more than a fifth of the characters are CJK, else English ("en").

    White space does not count. The threshold is the official one (src/preprocess/augmentation.py).
    """
    if text.isascii():
        return "en"
    characters = len("".join(text.split()))
    return "zh" if len(CJK.findall(text)) > CHINESE_SHARE * characters else "en"


def words(text: str, language: Language | Literal["auto"] = "auto") -> list[str]:
    """The lowercased words of a text, punctuation dropped; Chinese is segmented by jieba.

    Raises ImportError when Chinese text is met and jieba is not installed, ValueError on
    another language name.
    """
    chosen = language_of(text) if language == "auto" else language
    if chosen == "en":
        return WORD.findall(text.lower())
    if chosen == "zh":
        return [word for piece in _jieba_cut()(text.lower()) for word in WORD.findall(piece)]
    raise ValueError(f"language {language!r} is unknown: use 'en', 'zh' or 'auto'")


@cache
def _jieba_cut() -> Callable[[str], list[str]]:
    try:
        import jieba
    except ImportError as error:
        raise ImportError("Chinese text needs jieba: pip install confitlib[zh]") from error
    jieba.setLogLevel(logging.WARNING)  # its dictionary-loading messages are not the reader's
    return jieba.lcut
