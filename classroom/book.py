"""The book: a site in build/book made of executed notebooks and the documents, readable without any network.

`python -m classroom.book` builds it from the notebooks that `make reproduce` executed. What it left out, or what has
changed since, is executed with the tiny profile first.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from sphinx.cmd.build import build_main

from confitlib.notebooks import PAPERMILL_TAGS, all_notebooks, profile_parameters, run_notebook
from confitlib.util import project_root

PROFILES = ("laptop", "tiny")  # the first one that was run is shown
FOLDERS = ("binder", "docs", "figures", "profiles")
FILES = ("CITATION.cff", "CONTRIBUTING.md", "LICENSE", "claims.yaml", "requirements.lock")
WIDGET, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
CONTENTS = """

```{{toctree}}
:hidden:
:caption: Notebooks
{notebooks}
```
```{{toctree}}
:hidden:
:caption: Documents
{documents}
```
"""


def executed_copy(path: Path) -> Path:
    """The newest executed copy of a notebook as it is today, with a profile's own parameters; made if there is none.

    Raises NotebookError if that run fails.
    """
    cells = sources(nbformat.read(path, as_version=4))
    for profile in PROFILES:
        copies = project_root().glob(f"build/notebooks/{profile}/{path.stem}.*.ipynb")
        for copy in sorted(copies, reverse=True):  # their names sort by time
            notebook = nbformat.read(copy, as_version=4)
            run = notebook.metadata["papermill"]
            standard = run["parameters"] == profile_parameters(profile, path)
            if standard and not run["exception"] and sources(notebook) == cells:
                return copy
    print(f"{path.name}: no run of this version by `make reproduce`, so it runs with the tiny profile", flush=True)
    return run_notebook(path, profile="tiny")


def sources(notebook: Any) -> list[str]:
    """The text of a notebook's cells, without those that papermill added."""
    return [cell.source for cell in notebook.cells if not PAPERMILL_TAGS & set(cell.metadata.get("tags", []))]


def page_of(notebook: Any) -> Any:
    """An executed notebook as the book shows it.

    Injected parameters are folded, widgets stand as they first stood, and figures are named after their section.
    """
    widgets, heading = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {}), ""
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if PAPERMILL_TAGS & tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.+)$", cell.source, flags=re.MULTILINE) or [heading])[-1]
        if cell.cell_type == "code":
            cell.metadata["mystnb"] = {"image": {"alt": f"Figure of the section {heading}"}}
            cell.outputs = [shown for output in cell.outputs for shown in still(output, widgets)]
    return notebook


def still(output: Any, widgets: dict[str, Any]) -> list[Any]:
    """An output; of a widget, what stands in its output areas. A progress bar has none and goes."""
    view = output.get("data", {}).get(WIDGET)
    if view is None:
        return [output]
    return [nbformat.from_dict(found) for found in areas(view["model_id"], widgets)]


def areas(model: str, widgets: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs in the output areas of a widget and of those inside it, from top to bottom."""
    state = widgets.get(model.removeprefix("IPY_MODEL_"), {}).get("state", {})
    inner = [found for child in state.get("children", []) for found in areas(child, widgets)]
    return [*state.get("outputs", []), *inner]


def write_sources(folder: Path, executed: Mapping[Path, Path]) -> None:
    """Lay out the book's sources like the repository, so that the links between them hold."""
    shutil.rmtree(folder, ignore_errors=True)
    root = project_root()
    (folder / "notebooks").mkdir(parents=True)
    for path in all_notebooks():
        page = page_of(nbformat.read(executed.get(path, path), as_version=4))
        nbformat.write(page, folder / "notebooks" / path.name)
    for name in FOLDERS:
        shutil.copytree(root / name, folder / name)
    for name in FILES:
        shutil.copy(root / name, folder / name)
    front = (root / "README.md").read_text(encoding="utf-8")
    documents = [f"docs/{path.stem}" for path in sorted((root / "docs").glob("*.md"))]
    contents = CONTENTS.format(
        notebooks="\n".join(dict.fromkeys(re.findall(r"\((notebooks/\w+)\.ipynb\)", front))),  # in reading order
        documents="\n".join([*documents, "binder/README", "CONTRIBUTING"]),
    )
    (folder / "index.md").write_text(front + contents, encoding="utf-8")


def build_book(folder: Path, executed: Mapping[Path, Path]) -> Path:
    """Build the book in a folder; returns its first page.

    `executed` maps notebooks to their executed copies; the others stand in the book without outputs.
    Raises RuntimeError if Sphinx warns, e.g. of a link to nowhere.
    """
    work = folder.with_name(f"{folder.name}.work")
    write_sources(work / "source", executed)
    configuration = str(project_root() / "classroom")
    shutil.rmtree(folder, ignore_errors=True)
    options = ["-q", "-W", "--keep-going", "-c", configuration, "-d", str(work / "doctrees")]
    if build_main([*options, str(work / "source"), str(folder)]):
        raise RuntimeError("the book has faults: Sphinx names them above")
    return folder / "index.html"


if __name__ == "__main__":
    print(build_book(project_root() / "build" / "book", {path: executed_copy(path) for path in all_notebooks()}))
