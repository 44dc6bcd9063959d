"""Files written whole or not at all, and YAML read with errors that name file and line."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", dict, list)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Another name beside the path to write to, which takes the path's once the block has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def claim(mark: Path, content: str) -> bool:
    """Write a mark that says whose folder this is, unless one is there; whether it says the same.

    An empty one, of a kill in the moment of writing, counts as none.
    """
    known = mark.read_text(encoding="utf-8") if mark.is_file() else ""
    if not known:
        with atomic(mark) as partial:
            partial.write_text(content, encoding="utf-8")
    return known in ("", content)


def read_yaml(path: str | Path, kind: type[T]) -> T:
    """The mapping (`dict`) or list of a file, empty for an empty file; raises ValueError naming file and line."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8. Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise ValueError(f"{where}: not YAML ({getattr(error, 'problem', error)}). Correct the line.") from error
    content = kind() if content is None else content
    if not isinstance(content, kind):
        wanted = "mapping (name: value)" if kind is dict else "list (- …)"
        raise ValueError(f"{path}: expected a {wanted}, found {content!r:.60}")
    return content
