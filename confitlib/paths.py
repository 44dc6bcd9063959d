"""Where the repository is."""

from __future__ import annotations

from pathlib import Path


def project_root() -> Path:
    """The folder that relative outputs start from: the nearest one upwards with `notebooks` and `profiles`.

    A notebook therefore writes to the same place whether papermill runs it or a reader opens it in
    `notebooks/`. Outside such a folder it is the working directory.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "profiles").is_dir():
            return folder
    return here
