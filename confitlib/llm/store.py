"""The replayable store: every reply ever received, one JSON line each, so that none is paid for twice."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from confitlib.llm.requests import EMBEDDING, EmbeddingRequest, Request, fingerprint_of
from confitlib.util import lock, numbered_entries, parsed, repair_end, write_line

Entry = dict[str, Any]


class Store:
    """Replies by fingerprint in an append-only file; several processes may write to it at once.

    A line holds `fingerprint`, `request` (the whole payload), `text` or `vector`, `finish_reason`, `refusal`,
    `usage`, `served_by`, `origin`, `time`. `add` returns once the line is in the file (on the disk with
    `fsync`). The first reply to a fingerprint counts, so everyone who asks again reads the same.
    Opening an absent file is fine: it appears with the first reply. Raises ValueError naming file and
    line for damage other than a torn last line, which is reported and cut off by the next `add`.
    """

    def __init__(self, path: str | Path, fsync: bool = True) -> None:
        self.path = Path(path)
        self.fsync = fsync
        self.duplicates = 0
        self._entries: dict[str, Entry] = {}
        self._offset = self._lines = 0
        self.refresh()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} replies)"

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._entries

    def get(self, fingerprint: str) -> Entry | None:
        """The reply to a fingerprint, or None."""
        return self._entries.get(fingerprint)

    def refresh(self) -> None:
        """Read what other processes have appended since."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                self._catch_up(file)

    def add(self, request: Request | EmbeddingRequest, **reply: Any) -> Entry:
        """Append a reply; returns the one that counts, which is an earlier one if there is one by now."""
        payload = request.payload()
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        return self.append({"fingerprint": fingerprint_of(payload), "request": payload, **reply, "time": stamp})

    def append(self, entry: Entry) -> Entry:
        """Append a whole line unless its fingerprint is answered; returns the line that counts."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            lock(file)
            repair_end(file, self.path)
            self._catch_up(file)
            known = self._entries.get(entry["fingerprint"])
            if known is not None:
                return known
            write_line(file, entry, self.fsync)
            self._catch_up(file)
        return self._entries[entry["fingerprint"]]

    def _catch_up(self, file: IO[bytes]) -> None:
        """Take in the complete lines behind those already read."""
        if file.seek(0, os.SEEK_END) < self._offset:
            raise ValueError(f"{self.path} became shorter while it was open. Open the store again.")
        file.seek(self._offset)
        content = file.read()
        end = content.rfind(b"\n") + 1
        for line in content[:end].splitlines():
            self._lines += 1
            if line.strip():
                self._take(line)
        self._offset += end
        if content[end:]:
            warnings.warn(f"{self.path}: the last line is torn (a writer was killed): left out", stacklevel=3)

    def _take(self, line: bytes) -> None:
        entry = parsed(line)
        if entry is None or not isinstance(entry.get("fingerprint"), str):
            where = f"{self.path}, line {self._lines}"
            raise ValueError(f"{where} is not a reply. Restore the file, or remove the line and pay for it again.")
        self.duplicates += entry["fingerprint"] in self._entries
        self._entries.setdefault(entry["fingerprint"], entry)

    def merge(self, other: Store) -> int:
        """Append the replies that only another store has; returns how many."""
        missing = [entry for entry in other if entry["fingerprint"] not in self]
        for entry in missing:
            self.append(entry)
        return len(missing)


def verify(path: str | Path) -> list[str]:
    """What is wrong with a store: fingerprints that do not fit their request, lines without a reply, repeats."""
    problems, seen = [], Counter[str]()
    for number, entry in numbered_entries(Path(path)).items():
        seen[str(entry.get("fingerprint"))] += 1
        if not isinstance(entry.get("request"), Mapping) or fingerprint_of(entry["request"]) != entry["fingerprint"]:
            problems.append(f"{path}, line {number}: the fingerprint is not that of the request")
        needed = ("vector",) if (entry.get("request") or {}).get("kind") == EMBEDDING else ("text", "finish_reason")
        absent = [name for name in needed if name not in entry]
        if absent:
            problems.append(f"{path}, line {number}: without {' and '.join(absent)}")
    repeated = sum(count - 1 for count in seen.values())
    return [*problems, *([f"{path}: {repeated} repeated replies (the first of each counts)"] if repeated else [])]
