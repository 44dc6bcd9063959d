"""What both halves of the `confit` command share: how errors are shown and where paths start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from confitlib.lab import NotebookError
from confitlib.util import project_root


@contextmanager
def plain_errors() -> Iterator[None]:
    """Expected errors as one [FAIL] message and exit status 1; anything else keeps its traceback."""
    try:
        yield
    except (NotebookError, ValueError, TypeError, LookupError, OSError, ImportError) as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error  # str() would quote it
        typer.echo(f"[FAIL] {said}", err=True)
        raise typer.Exit(1) from error


def given_or(path: Path | None, default: str) -> Path:
    """A path as it was typed, which starts at the working directory; else the default under the project root."""
    return project_root() / default if path is None else path.absolute()
