"""Text: one letter in two spellings of Unicode, scripts, signs without width, masks, headings inside texts."""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from inputs import small_corpus
from verdicts import Case

from confitlib.corpus import Corpus, duplicate_groups
from confitlib.llm.requests import escape, fence, mask
from confitlib.text import WordIndex, join_fields, language_of, read_fields, sentences, words

WORDS = [
    "café",
    "Krankenschwester für Köln",
    "Pfl̈eger",
    "São Paulo",
    "naïve",
    "Łódź",
    "smörgåsbord",
    "façade",
    "Zürich",
    "Ångström",
    "señor",
    "garçon",
    "Đà Nẵng",
    "Phở",
    "tiếng Việt",
    "čeština",
    "ελληνικά ά",
    "йод",
    "ї",
    "हिन्दी",
    "नर्स",
    "தமிழ்",
    "ไทย",
    "العربيّة",
    "שָׁלוֹם",
    "한국어",
    "각",
    "ガ",
    "ば",
    "𝒜",
    "ﬁne",
    "①",
    "ö̲",
    "Å",
]
FORMS = ("NFC", "NFD")


def spellings() -> Iterator[Case]:
    """A word means the same in both forms of Unicode, wherever texts are compared."""
    for word, (a, b) in itertools.product(WORDS, itertools.permutations(FORMS)):
        one, two = unicodedata.normalize(a, word), unicodedata.normalize(b, word)
        yield Case(
            f"words of {word} in {a}",
            lambda folder, one=one, two=two: (words(one), words(two)),
            lambda both: both[0] == both[1] and bool(both[0]),
            None,
        )

        def score(folder: Path, one: str = one, two: str = two) -> Any:
            index = WordIndex([words(one), words("something else"), words("another text")])
            return index.scores(words(two)), index.scores(words(one))

        yield Case(f"BM25 of {word} in {a}", score, lambda both: np.array_equal(*both) and both[0][0] > 0, None)

        def groups(folder: Path, one: str = one, two: str = two) -> pd.Series:
            base = small_corpus()
            texts = [f"{one} x", f"{two}  X", *base.jobs["text"].iloc[2:]]
            return duplicate_groups(small_corpus(jobs=base.jobs.assign(text=texts)), "job")

        yield Case(
            f"duplicates of {word} in {a}", groups, lambda found: found.iloc[0] == found.iloc[1] != found.iloc[2], None
        )


def whole_words() -> Iterator[Case]:
    """A word of letters and their marks stays one word, in every script; signs without width are no letters."""
    for word in WORDS:
        for form in FORMS:
            text = unicodedata.normalize(form, word)
            count = len(text.split())
            yield Case(
                f"{word} in {form} is {count} words",
                lambda folder, text=text: words(text),
                lambda found, count=count: len(found) == count,
                None,
            )
    for sign in ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad"):
        yield Case(
            f"blank {sign!r}",
            lambda folder, sign=sign: small_corpus(jobs=small_corpus().jobs.assign(text=sign * 3)),
            None,
            ("no text",),
        )
        yield Case(
            f"duplicates with {sign!r}",
            lambda folder, sign=sign: duplicates_of(f"nurse{sign} ward", "nurse ward"),
            lambda found: found.iloc[0] == found.iloc[1],
            None,
        )


def duplicates_of(one: str, two: str) -> pd.Series:
    """The duplicate groups of two texts among others."""
    base = small_corpus()
    return duplicate_groups(small_corpus(jobs=base.jobs.assign(text=[one, two, *base.jobs["text"].iloc[2:]])), "job")


LONG = {
    "letters": "a" * 40_000,
    "digits": "1" * 40_000,
    "dots": "a." * 20_000,
    "dashes": "-" * 40_000,
    "words@": "a@" * 20_000,
    "www": "www." * 10_000,
    "brackets": "[" * 40_000,
    "spaces": " " * 40_000,
    "mail": "a.b-c+d" * 6_000,
    "phone": "+49 " * 10_000,
    "digits and spaces": "1 " * 20_000,
    "newlines": "\n" * 40_000,
    "cjk": "护" * 10_000,
    "marks": "e" + "\u0301" * 40_000,
    "url": "http://" + "a" * 40_000,
    "years": "2020-" * 8_000,
    "round": "(1" * 20_000,
    "underscores": "_" * 40_000,
}


def long_texts() -> Iterator[Case]:
    """Forty thousand characters without an end take no more than a fraction of a second, in every function of text."""
    functions: dict[str, Any] = {
        "mask": mask,
        "escape": escape,
        "words": words,
        "sentences": sentences,
        "language": language_of,
        "fence": lambda text: fence("job", text),
    }
    for (kind, text), (name, function) in itertools.product(LONG.items(), functions.items()):

        def call(folder: Path, function: Any = function, text: str = text) -> Any:
            import time

            start = time.process_time()
            return function(text), time.process_time() - start

        limit = 5 if name == "words" and kind == "cjk" else 1.5  # jieba loads its dictionary
        yield Case(f"{name} of {kind}", call, lambda both, limit=limit: both[1] < limit, None)


CONTACTS = [
    "anna@example.org",
    "a.b+c@sub.example.co.uk",
    "https://example.org/x?y=1",
    "www.example.org",
    "linkedin.com/in/anna",
    "github.com/anna",
    "+49 170 1234567",
    "(0170) 123-4567",
    "0049 170 1234567",
    "+1 (555) 123-4567",
]
HARMLESS = [
    "2019-2023",
    "2019/05/01",
    "50000-60000",
    "C++ and C#",
    "node.js",
    "e.g. this",
    "3 years",
    "2019-01 - 2020-02",
    "ISO 9001",
    "at home",
    "a/b testing",
]


def masks() -> Iterator[Case]:
    """Contact details are covered once and for all; dates, pay and names of tools stay."""
    for contact, (left, right) in itertools.product(
        CONTACTS, [("", ""), ("Mail: ", "."), ("(", ")"), ("护士 ", "，北京"), ("\n", "\n"), ("x, ", ", y")]
    ):
        text = f"{left}{contact}{right}"
        core = re.sub(r"\W", "", contact)
        yield Case(
            f"covered: {text!r}",
            lambda folder, text=text: mask(text),
            lambda masked, core=core: (
                core not in re.sub(r"\W", "", masked) and mask(masked) == masked and "[" in masked
            ),
            None,
        )
    for text in HARMLESS:
        yield Case(
            f"stays: {text}", lambda folder, text=text: mask(text), lambda masked, text=text: masked == text, None
        )


VALUES = [
    "plain",
    "",
    " ",
    "a\nb",
    "Job Information: section title:",
    "x\nJob Information: section title:\ny",
    "Job Information: section body:",
    "[Example resume]",
    "[The end of the job]",
    "护士",
    "\n\n",
    "title:",
]


def fields() -> Iterator[Case]:
    """A document's fields survive being written as one text and read again, or the text is refused."""
    for title, body in itertools.product(VALUES, VALUES):
        values = {"title": title, "body": body}

        def call(folder: Path, values: dict[str, str] = values) -> dict[str, str] | str:
            try:
                return read_fields(join_fields(values, "job"), list(values), "job")
            except ValueError as error:  # its words go to the language model, which is asked to write the text again
                return str(error)

        def right(found: dict[str, str] | str, values: dict[str, str] = values) -> bool:
            if isinstance(found, str):
                return "heading" in found and any("section" in value for value in values.values())
            return found == {name: value.strip() for name, value in values.items()}

        yield Case(f"title {title!r}, body {body!r}", call, right, None)


def ids_of_one_form() -> Iterator[Case]:
    """A label that names an id in another form of Unicode is refused with a hint at the form."""
    for word in WORDS[:12]:
        composed, parts = (unicodedata.normalize(form, word) for form in FORMS)
        if composed != parts:

            def call(folder: Path, composed: str = composed, parts: str = parts) -> Corpus:
                base = small_corpus()
                index = pd.Index([composed, *base.resumes.index[1:]])
                return small_corpus(
                    resumes=base.resumes.set_axis(index), labels=base.labels.replace({"resume_id": {"r0": parts}})
                )

            yield Case(f"id {word} in two forms", call, None, ("labels", "Unicode"))


GROUPS = {
    "text: forms of Unicode": spellings,
    "text: whole words": whole_words,
    "text: long": long_texts,
    "text: masks": masks,
    "text: headings in fields": fields,
    "text: ids in two forms": ids_of_one_form,
}
