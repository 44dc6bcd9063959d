"""Notebooks: their parameters, strict runs of one through papermill, and what they say of the machine."""

from __future__ import annotations

import ast
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from confitlib.records import device_name, plain, project_root, provenance, settings
from confitlib.util import read_yaml

if TYPE_CHECKING:
    import pandas as pd
    from traitlets.config import Config

KERNEL = "python3"
TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "list": (list,),
    "None": (type(None),),
}
PAPERMILL_TAGS = {"injected-parameters", "papermill-error-cell-tag"}


class NotebookError(RuntimeError):
    """A notebook that cannot be run as asked, or failed; the message names notebook, place and remedy."""


class Parameter(NamedTuple):
    """One parameter of a notebook: its declared type, or that of its default, and the default."""

    type: str
    default: Any


def notebooks() -> list[Path]:
    """The project's notebooks in reading order."""
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def find_notebook(notebook: str | Path) -> Path:
    """The notebook of a number such as "05", or of a path; raises NotebookError naming the known ones."""
    if Path(notebook).suffix == ".ipynb" and Path(notebook).is_file():
        return Path(notebook).resolve()
    found = [path for path in notebooks() if number_of(path) == str(notebook)]
    if len(found) != 1:
        known = ", ".join(path.stem for path in notebooks()) or f"none in {project_root() / 'notebooks'}"
        raise NotebookError(f"no single notebook {str(notebook)!r}; known: {known}. Run inside the repository.")
    return found[0]


def number_of(path: Path) -> str:
    """The number that a notebook's file name begins with, e.g. "05"."""
    return path.stem.split("_")[0]


def declared_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook's `parameters` cell declares, by name.

    Read from the syntax tree: papermill's own inspection goes line by line and loses a parameter
    whose comment holds an equals sign. Raises NotebookError unless there is one such cell of literals.
    """
    cells = [cell for cell in cells_of(path) if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise NotebookError(f"{path}: {len(cells)} cells are tagged `parameters`, expected one")
    declared = {}
    try:
        tree = ast.parse("".join(cells[0]["source"]))
    except SyntaxError as error:
        raise NotebookError(f"{path}: the parameters cell is not Python ({error.msg}, line {error.lineno})") from error
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            value = _literal(path, statement.value)
            declared[ast.unparse(statement.target)] = Parameter(ast.unparse(statement.annotation), value)
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            value = _literal(path, statement.value)
            declared[ast.unparse(statement.targets[0])] = Parameter(type(value).__name__, value)
        else:
            raise NotebookError(f"{path}: the parameters cell holds {ast.unparse(statement)!r}, not an assignment")
    return declared


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook as its JSON has them."""
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
        return content["cells"]
    except (ValueError, KeyError) as error:
        raise NotebookError(f"{path} is no notebook ({error}): restore it, or merge it again") from error


def _literal(path: Path, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise NotebookError(f"{path}: parameter value {ast.unparse(value)!r} is not a literal") from error


def current_parameters(notebook: str | Path, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a notebook's parameters have in its namespace: `current_parameters("05", globals())`."""
    return {name: namespace[name] for name in declared_parameters(find_notebook(notebook))}


def profile_parameters(profile: str, notebook: str | Path) -> dict[str, Any]:
    """What `profiles/<profile>.yaml` sets for a notebook: `common` where it has them, then its own section.

    Raises NotebookError for a section without a notebook, for a common parameter that no notebook has,
    and for a parameter in the section that the notebook does not have; ValueError for a file of another shape.
    """
    path = find_notebook(notebook)
    content = _profile(profile)
    common, section = content.get("common") or {}, content.get(number_of(path)) or {}
    declared = declared_parameters(path)
    refuse_unknown(f"profile {profile!r}, section {number_of(path)!r}", section, declared)
    everywhere = {name for other in {path, *notebooks()} for name in declared_parameters(other)}
    refuse_unknown(f"profile {profile!r}, section 'common'", common, everywhere)
    sections = {"common", *map(number_of, {path, *notebooks()})}
    refuse_unknown(f"profile {profile!r}, section names", content, sections)
    return {name: value for name, value in {"profile": profile, **common}.items() if name in declared} | section


def _profile(profile: str) -> dict[str, Any]:
    path = project_root() / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise NotebookError(f"no profile {profile!r}; known: {', '.join(known) or f'none in {path.parent}'}")
    content = read_yaml(path, dict)
    for name, section in content.items():
        if not isinstance(section, dict | None):
            raise ValueError(
                f"{path}, section {name!r}: expected a mapping from parameter to value, found {section!r:.60}"
            )
    return content


def refuse_unknown(where: str, names: Mapping[str, Any], known: Any) -> None:
    """Raise NotebookError, saying where, for names that are not known."""
    unknown = sorted(str(name) for name in names if name not in known)
    if unknown:
        raise NotebookError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")


def check_parameters(notebook: str | Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as JSON values, once each is one that the notebook declares and has its type.

    Raises NotebookError for an unknown name or another type, TypeError for what is no JSON scalar or list.
    """
    path = find_notebook(notebook)
    declared = declared_parameters(path)
    refuse_unknown(f"{path.name}, parameters", parameters, declared)
    values = {name: plain(value, f"parameter {name!r}") for name, value in parameters.items()}
    for name, value in values.items():
        kinds = declared[name].type.split(" | ")
        if not any(_fits(value, kind) for kind in kinds):
            raise NotebookError(f"{path.name}: parameter {name} is {' or '.join(kinds)}, got {value!r}")
    return values


def _fits(value: Any, kind: str) -> bool:
    """Whether a JSON value has a declared type; whole numbers are floats too, booleans are no numbers."""
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, TYPES.get(kind.split("[")[0], ()))


def parse_value(notebook: str | Path, name: str, text: str) -> Any:
    """A parameter value from the command line: as it is for a declared string, else as JSON where it is JSON."""
    parameter = declared_parameters(find_notebook(notebook)).get(name)
    if parameter is not None and parameter.type == "str":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    output_folder: str | Path | None = None,
    profile: str = "laptop",
) -> Path:
    """Execute a notebook with a profile's parameters, overridden by `parameters`; returns the executed copy.

    The copy gets a name of its own in `output_folder` (default `build/notebooks/<profile>`), an HTML
    export beside it. The kernel is this interpreter, its working directory the repository root.
    Raises NotebookError for unknown parameters and for a failing cell, whose executed copy stays.
    """
    path = find_notebook(notebook)
    values = check_parameters(path, {**profile_parameters(profile, path), **(parameters or {})})
    folder = project_root() / (output_folder or f"build/notebooks/{profile}")
    executed = folder / f"{path.stem}.{run_id()}.ipynb"
    folder.mkdir(parents=True, exist_ok=True)
    _execute(path, executed, values)
    _export_html(executed)
    return executed


def run_id() -> str:
    """A name no other run has, which sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"


def _execute(path: Path, executed: Path, values: dict[str, Any]) -> None:
    import papermill

    try:
        with _own_kernel(), _own_sockets() as config:
            papermill.execute_notebook(
                path, executed, values, kernel_name=KERNEL, language="python", cwd=project_root(), config=config
            )
    except papermill.PapermillExecutionError as error:
        raise NotebookError(_failure(path, executed, f"{error.ename}: {error.evalue}")) from error
    except RuntimeError as error:  # a kernel that died or never started
        raise NotebookError(_failure(path, executed, f"{type(error).__name__}: {error}")) from error


@contextmanager
def _own_sockets() -> Iterator[Config]:
    """Talk to the kernel through files of this run alone: kernels started at once can race for one TCP port."""
    from traitlets.config import Config

    if sys.platform == "win32":
        yield Config()
        return
    with tempfile.TemporaryDirectory(prefix="confit-") as folder:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


@contextmanager
def _own_kernel() -> Iterator[None]:
    """Let this environment's kernel come first, ahead of one that a user registered under the same name."""
    before = os.environ.get("JUPYTER_PATH")
    own = str(Path(sys.prefix) / "share" / "jupyter")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, before] if before else [own])
    try:
        yield
    finally:
        if before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = before


def kernel_command() -> list[str]:
    """The command that starts the notebooks' kernel."""
    from jupyter_client.manager import KernelManager

    with _own_kernel():
        command: list[str] = KernelManager(kernel_name=KERNEL).format_kernel_cmd()
    return command


def _failure(path: Path, executed: Path, reason: str) -> str:
    if not executed.is_file():
        return f"{path.name}: {reason}"
    cells = [cell for cell in cells_of(executed) if not PAPERMILL_TAGS & set(cell["metadata"].get("tags", []))]
    started = [number for number, cell in enumerate(cells, 1) if cell["metadata"]["papermill"]["start_time"]]
    return f"{path.name}, cell {started[-1] if started else 1}: {reason}\nexecuted copy: {short_path(executed)}"


def short_path(path: Path) -> str:
    """A path as seen from the repository's root, if it lies below it."""
    root = project_root()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _export_html(executed: Path) -> None:
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter().from_filename(str(executed))
    executed.with_suffix(".html").write_text(html, encoding="utf-8")


def standard_records(records: pd.DataFrame, profile: str) -> pd.DataFrame:
    """The records of a profile whose parameters are the profile's own; only seed and output may differ.

    A claim speaks of these: a run with other parameters, or from before a default changed, says nothing
    about it.
    """
    expected = {number_of(path): _settled(path, profile) for path in notebooks()}
    keep = [
        row["profile"] == profile and expected.get(row["notebook"]) == _without_seed(row["parameters"])
        for _, row in records.iterrows()
    ]
    return records[keep]


def _settled(path: Path, profile: str) -> str:
    defaults = {name: parameter.default for name, parameter in declared_parameters(path).items()}
    return _without_seed(defaults | profile_parameters(profile, path))


def _without_seed(parameters: Mapping[str, Any]) -> str:
    return settings({name: value for name, value in parameters.items() if name != "seed"})


def environment() -> pd.DataFrame:
    """What this notebook runs on: versions, device, and why that device; the setup cell shows it."""
    import pandas as pd
    import torch

    versions = provenance()["versions"]
    shown = {name: versions[name] for name in ("python", "confitlib", "torch", "transformers") if name in versions}
    why = "torch sees a CUDA card" if torch.cuda.is_available() else "torch sees no CUDA card"
    rows = {**shown, "device": f"{device_name()}: {why}", "threads": str(torch.get_num_threads())}
    return pd.DataFrame({"value": rows})
