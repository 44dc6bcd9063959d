"""Prompts, kept as Markdown files: `prompts/{task}.{language}.md`, with one `# part` a heading."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from string import Template

from confitlib.corpus import Corpus, Side
from confitlib.text import Language, language_of

NOUNS: dict[Language, dict[Side, str]] = {
    "en": {"resume": "resume", "job": "job post"},
    "zh": {"resume": "简历", "job": "职位描述"},
}


@cache
def load_prompt(task: str, version: str) -> dict[str, Template]:
    """The parts of a prompt by name; `version` is a language, or "official" for the released HyRe prompt.

    Raises ValueError for a prompt that is not there.
    """
    path = files("confitlib") / "prompts" / f"{task}.{version}.md"
    if not path.is_file():
        raise ValueError(f"no prompt {path.name}: task {task!r} has no version {version!r}")
    parts = re.split(r"^# (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: Template(text.strip("\n")) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def language_of_corpus(corpus: Corpus, side: Side, sample: int = 50) -> Language:
    """The language of most of the first documents of a side."""
    frame = corpus.documents(side).head(sample)[corpus.fields(side)].astype("str").fillna("")
    chinese = sum(language_of(" ".join(row)) == "zh" for row in frame.itertuples(index=False))
    return "zh" if 2 * chinese > len(frame) else "en"
