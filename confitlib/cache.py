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
    digest = hashlib.sha256()
    for module in modules:
        folder = PACKAGE / module
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
