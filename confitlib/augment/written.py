"""What a writer of documents returns, whoever writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

OFFLINE = "offline writer (retrieval, no LLM)"


@dataclass(frozen=True)
class Written:
    """Texts written for documents, by id; a document that none could be written for is in `problems` with the reason.

    `writer` labels who wrote. `sources` names, by id, the documents that the writer was shown or took from.
    """

    writer: str
    texts: Mapping[str, Sequence[str]]
    problems: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def first(self) -> dict[str, str]:
        """The first text of every document that has one."""
        return {name: options[0] for name, options in self.texts.items() if options}

    def report(self) -> str:
        """One line: how many documents by whom, and why the others have none."""
        done, reasons = len(self.first()), Counter(problem.split(":")[0] for problem in self.problems.values())
        missing = "".join(f"; {count:,} without: {reason}" for reason, count in reasons.most_common())
        return f"{done:,} documents by the {self.writer}{missing}"
