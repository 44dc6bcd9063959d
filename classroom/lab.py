"""JupyterLab on copies of the notebooks: `python -m classroom.lab`, with any options of `jupyter lab` behind it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from confitlib.notebooks import all_notebooks
from confitlib.util import project_root

FIRST = "00_start_here.ipynb"


def copy_notebooks(folder: Path) -> list[str]:
    """Copy the notebooks into a folder; a copy that was edited there stays.

    Returns a sentence for each edited copy whose original has changed since.
    """
    originals = folder / ".originals"  # each notebook as it was when it was copied
    originals.mkdir(parents=True, exist_ok=True)
    notices = []
    for path in all_notebooks():
        copy, original, content = folder / path.name, originals / path.name, path.read_bytes()
        known = original.read_bytes() if original.is_file() else b""
        if not copy.is_file() or copy.read_bytes() in (known, content):
            copy.write_bytes(content)
            original.write_bytes(content)
        elif known != content:
            notices.append(
                f"{path.name} has changed since you began. Your copy {copy} stays as you left it; "
                "rename it, and the next start brings the new one."
            )
    return notices


def lab_environment(root: Path) -> dict[str, str]:
    """The variables that JupyterLab runs with: this Python's commands first on PATH, its kernel first, no news."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    settings = os.pathsep.join(
        filter(None, [str(root / "classroom" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")])
    )
    return {**os.environ, "PATH": path, "JUPYTER_CONFIG_PATH": settings, "JUPYTER_PREFER_ENV_PATH": "1"}


def lab_command(root: Path, options: list[str]) -> list[str]:
    """The `jupyter lab` that shows the repository and opens the first copy; root in a container may start it."""
    fixed = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/work/{FIRST}", "--allow-root"]
    return [sys.executable, "-m", "jupyterlab", *fixed, *options]


if __name__ == "__main__":
    root = project_root()
    for notice in copy_notebooks(root / "work"):
        print(notice, file=sys.stderr)
    command = lab_command(root, sys.argv[1:])
    os.execve(command[0], command, lab_environment(root))
