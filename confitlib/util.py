"""What every other module uses: the project's root, atomic writes, append-only JSON lines, keys of results."""

from __future__ import annotations

import functools
import gzip
import hashlib
import inspect
import json
import os
import re
import sys
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from mmap import ACCESS_READ, mmap
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from yaml.error import MarkedYAMLError

if TYPE_CHECKING:
    import numpy as np

if sys.platform != "win32":
    import fcntl

# Raised by hand when a change of the module changes its numbers; tests/test_notebooks.py tells when that is due.
RESULTS_VERSION = {
    "corpus": 1, "text": 1, "market": 2, "augment": 2, "encoder": 1, "mining": 1, "training": 2, "rankers": 2,
    "evaluation": 1,
}  # fmt: skip
T = TypeVar("T", dict, list)
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # JSON writes a character beyond U+FFFF as two of these
Made = TypeVar("Made")
F = TypeVar("F", bound=Callable[..., Any])


def project_root() -> Path:
    """The folder that relative outputs start from: the nearest one upwards with `notebooks` and `profiles`.

    A notebook therefore writes to the same place whether papermill runs it or a reader opens it in
    `notebooks/`. Outside such a folder it is the working directory.
    """
    folders = [Path.cwd(), *Path.cwd().parents]
    roots = (folder for folder in folders if (folder / "notebooks").is_dir() and (folder / "profiles").is_dir())
    return next(roots, folders[0])


def given_or(path: Path | None, default: str) -> Path:
    """A path from the command line, relative to the working directory; by default one below the project's root."""
    return project_root() / default if path is None else path.absolute()


def short_path(path: Path) -> str:
    """A path as seen from the project's root, if it lies below it."""
    root = project_root()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def make_folder(path: Path) -> Path:
    """A folder, made if it is not there; raises OSError saying what to do where nothing can be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write to {path} ({error.strerror}): choose another folder") from error
    return path


def plain_file(path: str | Path) -> Path:
    """A path of a plain file; raises FileNotFoundError for another, for a pipe would be read for ever."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is no plain file' if path.exists() else 'does not exist'}: check the path")
    return path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces `path` once the block has ended without an error."""
    make_folder(path.parent)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def claim(mark: Path, content: str) -> bool:
    """Write a file that says what a folder holds, unless there is one; returns whether the two agree.

    An empty file, left by a process that was killed while writing it, counts as none.
    """
    text = mark.read_text(encoding="utf-8") if mark.is_file() else ""
    if not text:
        with atomic(mark) as partial:
            partial.write_text(content, encoding="utf-8")
    return text in ("", content)


class StrictLoader(yaml.SafeLoader):
    """YAML without aliases, which let a small file grow without bound, and without keys that replace earlier ones."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse `*name`."""
        if self.check_event(yaml.AliasEvent):
            raise MarkedYAMLError(problem="an alias: write the value out", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that is there twice."""
        for place, (key, _) in enumerate(node.value):
            if any(key.value == earlier.value for earlier, _ in node.value[:place]):
                raise MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


StrictLoader.add_constructor("tag:yaml.org,2002:binary", yaml.SafeLoader.construct_undefined)  # type: ignore[type-var]


def read_yaml(path: str | Path, kind: type[T]) -> T:
    """The mapping (`dict`) or list of a file, empty for an empty file; raises ValueError naming file and line."""
    try:
        content = yaml.load(plain_file(path).read_text(encoding="utf-8"), StrictLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8. Save it as UTF-8.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: of a date or number that is none
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise ValueError(f"{where}: not YAML ({getattr(error, 'problem', error)}). Correct the line.") from error
    content = kind() if content is None else content
    if not isinstance(content, kind):
        wanted = "mapping (name: value)" if kind is dict else "list (- …)"
        raise ValueError(f"{path}: expected a {wanted}, found {content!r:.60}")
    return content


def made_of(kind: Callable[..., Made], entry: Any, where: str, remedy: str) -> Made:
    """What a class makes of a mapping from a file; raises ValueError saying where it cannot, and what to do."""
    try:
        return kind(**entry)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}. {remedy}") from error


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one JSON line; safe with several writers and after a writer was killed in the middle of a line."""
    make_folder(path.parent)
    with path.open("ab+") as file:
        lock(file)
        repair_end(file, path)
        write_line(file, entry)


def write_line(file: IO[bytes], entry: Mapping[str, Any]) -> None:
    """Write one JSON line to a file open for appending and flush it to the disk itself."""
    file.write(json.dumps(entry, allow_nan=False, ensure_ascii=False).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def lock(file: IO[bytes], wait: bool = True) -> None:
    """Hold an exclusive lock until the file is closed; with `wait=False` raises BlockingIOError if it is taken.

    Without effect on Windows, where one appended line is still written in a single call.
    """
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def repair_end(file: IO[bytes], path: Path) -> None:
    """End an unfinished last line: complete JSON gets its line break, a torn rest is cut off and reported."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    with mmap(file.fileno(), 0, access=ACCESS_READ) as content:  # searched backwards, however long the file
        tail = content[content.rfind(b"\n") + 1 :]
    if tail and parsed(tail) is not None:
        file.write(b"\n")
    elif tail:
        warnings.warn(f"{path}: the torn last line of a killed run was cut off ({len(tail)} bytes)", stacklevel=4)
        file.truncate(end - len(tail))


def parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line, or None if it is torn or something else."""
    with suppress(ValueError, RecursionError):
        entry = json.loads(line)
        return entry if isinstance(entry, dict) else None
    return None


def parse_json(text: str) -> Any:
    """JSON whose keys are unique and whose text is whole; raises ValueError."""

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """The object of some pairs."""
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                raise ValueError(f"key {key!r} occurs twice in one object")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=unique_keys)
        if HALF_PAIR.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate is no character: UnicodeEncodeError
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None
    return content


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The records of one file in file order; a torn last line is left out with a warning.

    Raises ValueError naming file and line for a defect anywhere else.
    """
    return list(numbered_entries(path).values())


def numbered_entries(path: Path) -> dict[int, dict[str, Any]]:
    """The records of one file by line number, from 1, as `read_entries` reads them; `.gz` files are unpacked."""
    content = plain_file(path).read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).split(b"\n")
    entries = {number: parsed(line) for number, line in enumerate(lines, 1) if line.strip()}
    for number, entry in entries.items():
        if entry is None and number < len(lines):
            raise ValueError(f"{path}, line {number} is not a JSON object. Remove the line or restore the file.")
        if entry is None:
            warnings.warn(f"{path}, line {number} is torn (a run was killed while writing it): left out", stacklevel=3)
    return {number: entry for number, entry in entries.items() if entry is not None}


def content_key(**parts: Any) -> str:
    """A hash of named JSON values (16 hex digits); the order of the names does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


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


def generator_of(seed: int, name: str) -> np.random.Generator:
    """A generator of a seed and a name alone: what is drawn for one does not depend on the others."""
    import numpy as np  # late, for a quick command line

    return np.random.default_rng([seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())])


def check_range(settings: object, *names: str, least: float = 0, above: float = -inf, most: float = inf) -> None:
    """Raise ValueError for a named setting that is out of its range or not finite; None, where allowed, passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (least <= value <= most and above < value < inf):
            low = f"at least {least}" if above < least else f"above {above}"
            raise ValueError(f"{name}={value} must be {low}" + (f" and at most {most}" if most < inf else ""))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type, as far as one can see: `True` is no number, text no list of texts."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if kind is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is bool:
        return type(value).__name__ in ("bool", "bool_")  # numpy's too
    if hint is Any or not isinstance(kind, type):
        return True
    if getattr(kind, "_is_protocol", False):
        return any(hasattr(value, name) for name in vars(kind) if not name.startswith("_"))  # a part may do
    if isinstance(value, Mapping) and parts and issubclass(kind, Mapping):
        return all(fits(key, parts[0]) and fits(one, parts[1]) for key, one in value.items())
    if parts and issubclass(kind, Iterable) and not issubclass(kind, tuple | Mapping) and kind.__module__ != "numpy":
        if isinstance(value, str | bytes) or (kind is not Iterable and isinstance(value, Mapping)):
            return False
        sized = hasattr(value, "__len__")  # what is not can be read but once
        return all(fits(one, parts[0]) for one in value) if sized else kind is Iterable and hasattr(value, "__iter__")
    return isinstance(value, kind)


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise for a value, by name, that does not fit its hint: ValueError for an unknown choice, else TypeError."""
    for name, value in values.items():
        if name in hints and not fits(value, hint := hints[name]):
            choices = [one for part in (hint, *get_args(hint)) if get_origin(part) is Literal for one in get_args(part)]
            if choices and isinstance(value, str):
                raise ValueError(f"{name}={value!r:.60} is unknown; use one of {choices}")
            wanted = re.sub(r"<class '|'>|[\w.]+\.", "", str(hint))
            raise TypeError(f"{name}={value!r:.60} is a {type(value).__name__}: give {wanted}")
        if name == "seed" and value is not None and value < 0:
            raise ValueError(f"seed={value} must be at least 0")


def checked(function: F) -> F:
    """A public function, or a class by its constructor, that checks its arguments by their annotations first."""
    if isinstance(function, type):
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function
    signature = inspect.signature(function)
    hints = functools.cache(lambda: get_type_hints(function))  # not before all modules are there

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check_types(signature.bind(*args, **kwargs).arguments, hints())
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
