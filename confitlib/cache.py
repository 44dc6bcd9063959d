"""Keys of content and code, so that a step is computed once and never mistaken for another."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


def content_key(**parts: Any) -> str:
    """A hash of named JSON values (16 hex digits); the order of the names does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


@cache
def code_hash(*modules: str) -> str:
    """A hash of the source of modules of this package, so that results of their older code are not reused."""
    folders = [PACKAGE / module for module in modules]
    return files_hash(*(folder if folder.is_dir() else folder.with_suffix(".py") for folder in folders))


def files_hash(*paths: Path) -> str:
    """A hash of files and of all files in folders, by name and content (16 hex digits)."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.relative_to(path.parent).as_posix().encode())
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
