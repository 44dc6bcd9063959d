"""Append-only files of JSON lines that survive kills and several writers."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

BLOCK = 1 << 16


def append_line(path: Path, entry: Mapping[str, Any], fsync: bool = True) -> None:
    """Append one JSON line; safe with several writers and after a writer was killed in the middle of a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        lock(file)
        repair_end(file, path)
        write_line(file, entry, fsync)


def write_line(file: IO[bytes], entry: Mapping[str, Any], fsync: bool = True) -> None:
    """Write one JSON line to a file open for appending and flush it, to the disk itself with `fsync`."""
    file.write(json.dumps(entry, allow_nan=False, ensure_ascii=False).encode() + b"\n")
    file.flush()
    if fsync:
        os.fsync(file.fileno())


def lock(file: IO[bytes], wait: bool = True) -> None:
    """Hold an exclusive lock until the file is closed; with `wait=False` raises BlockingIOError if it is taken.

    Without effect on Windows, where one appended line is still written in a single call.
    """
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def repair_end(file: IO[bytes], path: Path) -> None:
    """End an unfinished last line: complete JSON gets its line break, a torn rest is cut off and reported."""
    tail = _last_line(file)
    if not tail:
        return
    if parsed(tail) is not None:
        file.write(b"\n")
        return
    warnings.warn(f"{path}: the torn last line of a killed run was cut off ({len(tail)} bytes)", stacklevel=4)
    file.truncate(file.seek(0, os.SEEK_END) - len(tail))


def _last_line(file: IO[bytes]) -> bytes:
    """What follows the last line break, read backwards so that a long file costs no more than a short one."""
    start, tail = file.seek(0, os.SEEK_END), b""
    while start and b"\n" not in tail:
        start, stop = max(start - BLOCK, 0), start
        file.seek(start)
        tail = file.read(stop - start) + tail
    return tail[tail.rfind(b"\n") + 1 :]


def parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line, or None if it is torn or something else."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The records of one file in file order; a torn last line is left out with a warning.

    Raises ValueError naming file and line for a defect anywhere else.
    """
    return list(numbered_entries(path).values())


def numbered_entries(path: Path) -> dict[int, dict[str, Any]]:
    """The records of one file by line number, from 1, as `read_entries` reads them."""
    lines = path.read_bytes().split(b"\n")
    entries = {}
    for number, line in enumerate(lines, 1):
        entry = parsed(line) if line.strip() else None
        if entry is not None:
            entries[number] = entry
        elif line.strip() and number == len(lines):
            warnings.warn(f"{path}, line {number} is torn (a run was killed while writing it): left out", stacklevel=3)
        elif line.strip():
            raise ValueError(f"{path}, line {number} is not a JSON object. Remove the line or restore the file.")
    return entries
