"""The replayable store: every reply ever received, one JSON line each, so that none is paid for twice."""

import os
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from confitlib.llm.requests import EmbeddingRequest, Entry, Request, fingerprint_of
from confitlib.util import lock, make_folder, parsed, plain_file, repair_end, write_line


class Store(dict[str, Entry]):
    """Replies by fingerprint, read from an append-only file; several processes may write to it at once.

    A line holds `fingerprint`, `request` (the whole payload), `text` or `vector`, `finish_reason`, `refusal`,
    `usage`, `served_by`, `origin`, `time`. Use `add` to put a reply in: it returns once the line is on the disk.
    The first reply to a fingerprint counts, so everyone who asks again reads the same; `duplicates` counts the others.
    Opening an absent file is fine: it appears with the first reply. Raises ValueError naming file and
    line for damage other than a torn last line, which is reported and cut off by the next `add`.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.duplicates = self._offset = self._lines = 0
        self.refresh()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} replies)"

    def add(self, request: Request | EmbeddingRequest, **reply: Any) -> Entry:
        """Append a reply; returns the one that counts, which is an earlier one if there is one by now."""
        payload = request.payload()
        name, time = fingerprint_of(payload), datetime.now(UTC).isoformat(timespec="milliseconds")
        make_folder(self.path.parent)
        with self.path.open("ab+") as file:
            lock(file)
            repair_end(file, self.path)
            self._read_on(file)
            if name not in self:
                write_line(file, {"fingerprint": name, "request": payload, **reply, "time": time})
                self._read_on(file)
        return self[name]

    def refresh(self) -> None:
        """Read what other processes have appended since."""
        if self.path.exists():
            with plain_file(self.path).open("rb") as file:
                self._read_on(file)

    def _read_on(self, file: IO[bytes]) -> None:
        """Take in the complete lines behind those already read."""
        if file.seek(0, os.SEEK_END) < self._offset:
            raise ValueError(f"{self.path} became shorter while it was open. Open the store again.")
        file.seek(self._offset)
        *lines, torn = file.read().split(b"\n")
        for line in lines:
            self._lines, self._offset = self._lines + 1, self._offset + len(line) + 1
            if not line.strip():
                continue
            entry = parsed(line) or {}
            if "request" not in entry or fingerprint_of(entry["request"]) != entry.get("fingerprint"):
                where = f"{self.path}, line {self._lines}"
                raise ValueError(f"{where} is not a reply to its request. Restore the file, or remove the line.")
            self.duplicates += entry["fingerprint"] in self
            self.setdefault(entry["fingerprint"], entry)
        if torn:
            warnings.warn(f"{self.path}: the last line is torn (a writer was killed): left out", stacklevel=3)
