"""Language models: stores of replies, requests that wait for one, batches."""

from __future__ import annotations

import importlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confitlib.util import given_or, project_root, short_path

if TYPE_CHECKING:
    from confitlib.llm.pending import Waiting

llm = typer.Typer(no_args_is_help=True, help=__doc__)

ANSWERS = "records/llm/answers.jsonl"
PENDING = "records/pending"

StoreFile = Annotated[Path | None, typer.Option("--store", help=f"The file of replies; {ANSWERS}.")]
PresetName = Annotated[str, typer.Option(help="Preset of the synthetic market.")]


def _load_tasks() -> None:
    """The augmentation room registers its tasks when it is imported."""
    if find_spec("confitlib.augment"):
        importlib.import_module("confitlib.augment")


@llm.command()
def stats(files: Annotated[list[Path], typer.Argument(help="Files of replies.")]) -> None:
    """Count replies, tokens and cost by model."""
    from confitlib.llm.pricing import load_prices
    from confitlib.llm.replies import usage_of
    from confitlib.llm.requests import Usage
    from confitlib.llm.store import Store

    prices = load_prices()
    for store in map(Store, _existing(files)):
        typer.echo(f"{store.path}: {len(store)} replies, {store.duplicates} repeated lines")
        models = sorted({entry["request"]["model"] for entry in store})
        for model in models:
            own = [entry for entry in store if entry["request"]["model"] == model]
            usage = sum(map(usage_of, own), Usage())
            batch = sum((usage_of(entry) for entry in own if entry.get("origin") == "batch"), Usage())
            rest = Usage(usage.input - batch.input, usage.output - batch.output)
            price = prices.get(model)
            cost = f"${price.cost(rest) + price.cost(batch, batch=True):.4f}" if price else "cost unknown"
            ends = Counter(entry.get("finish_reason") or "none" for entry in own)
            listed = ", ".join(f"{count} {name}" for name, count in ends.most_common())
            typer.echo(f"  {model}: {len(own)} ({listed}); {usage.input:,} + {usage.output:,} tokens, {cost}")


def _existing(files: list[Path]) -> list[Path]:
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"no such file: {', '.join(absent)}")
    return files


@llm.command()
def verify(files: Annotated[list[Path], typer.Argument(help="Files of replies.")]) -> None:
    """Check that every line is whole and belongs to its request; exit status 1 if not."""
    from confitlib.llm import store

    problems = [problem for file in _existing(files) for problem in store.verify(file)]
    for problem in problems:
        typer.echo(f"[FAIL] {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"[OK] {len(files)} files")


@llm.command()
def merge(
    target: Annotated[Path, typer.Argument(help="The file that receives.")],
    sources: Annotated[list[Path], typer.Argument(help="Files of replies to take in.")],
) -> None:
    """Add to a file of replies what only others have."""
    from confitlib.llm.store import Store

    store = Store(target, fsync=False)
    for source in _existing(sources):
        typer.echo(f"[OK] {store.merge(Store(source))} new replies from {source}")


@llm.command()
def export(
    file: Annotated[Path, typer.Argument(help="A file of replies.")],
    out: Annotated[Path, typer.Option(help="The table, CSV.")],
) -> None:
    """Write the chat replies of a store as a table to read: fingerprint, model, prompt, text."""
    import pandas as pd

    from confitlib.llm.store import Store

    rows = [
        {
            "fingerprint": entry["fingerprint"],
            "model": entry["request"]["model"],
            "sample": entry["request"]["sample"],
            "prompt": entry["request"]["messages"][-1]["content"],
            "text": entry["text"],
            "finish_reason": entry["finish_reason"],
            "time": entry.get("time"),
        }
        for entry in Store(_existing([file])[0])
        if "text" in entry
    ]
    pd.DataFrame(rows).to_csv(out, index=False)
    typer.echo(f"[OK] {len(rows)} replies in {out}")


@llm.command()
def requests(
    task: Annotated[str, typer.Option(help="A task such as hyre.")],
    out: Annotated[Path | None, typer.Option(help="The file; records/pending/TASK_PRESET.jsonl.")] = None,
    preset: PresetName = "laptop",
    seed: Annotated[int, typer.Option(help="Seed of the market and of the task's choices.")] = 0,
    model: Annotated[str | None, typer.Option(help="Model to ask; CONFIT_LLM_MODEL or the paper's.")] = None,
    store: StoreFile = None,
) -> None:
    """Write the requests of a task that have no usable reply yet, and what they would cost."""
    from confitlib.llm.client import Client
    from confitlib.llm.pending import write_waiting
    from confitlib.llm.tasks import find_task
    from confitlib.market import compose

    _load_tasks()
    chosen = find_task(task)
    client = Client(given_or(store, ANSWERS), model=model, offline=True)
    asked = chosen.build(compose(preset, seed).corpus, client.model, seed)
    path = given_or(out, f"{PENDING}/{task}_{preset}.jsonl")
    count = write_waiting(path, task, [ask for _, ask in client.pending(asked, chosen.check)])
    typer.echo(f"[OK] {count} requests in {short_path(path)}")
    typer.echo(str(client.estimate(asked, chosen.check)))


def _waiting(files: list[Path] | None) -> dict[str, Waiting]:
    from confitlib.llm.pending import read_waiting

    folder = project_root() / PENDING
    found = _existing(files) if files else sorted(folder.glob("*.jsonl"))
    if not found:
        raise FileNotFoundError(f"no requests in {folder}: write them with `confit llm requests`, or name their file")
    return read_waiting(found)


@llm.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="JSON lines {fingerprint, text[, model, usage, finish_reason]}.")],
    waiting: Annotated[
        list[Path] | None, typer.Option("--requests", help="Files of requests; records/pending.")
    ] = None,
    store: StoreFile = None,
) -> None:
    """Take answers back, validating each by its task; exit status 1 if one is rejected."""
    from confitlib.llm.pending import import_answers
    from confitlib.llm.store import Store

    _load_tasks()
    done = import_answers(Store(given_or(store, ANSWERS)), _waiting(waiting), *_existing([file]))
    for rejected in done.rejected:
        typer.echo(f"[FAIL] {rejected}", err=True)
    typer.echo(f"{done.taken} answers taken, {done.known} already there, {len(done.rejected)} rejected")
    if done.rejected:
        raise typer.Exit(1)


@llm.command()
def submit(
    files: Annotated[list[Path], typer.Argument(help="Files of requests.")],
    budget: Annotated[float | None, typer.Option(help="US dollars the batch may cost.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    store: StoreFile = None,
) -> None:
    """Hand in waiting requests as a batch."""
    from confitlib.llm import batch
    from confitlib.llm.client import Client
    from confitlib.llm.pending import requests_of

    client, asked = Client(given_or(store, ANSWERS), budget=budget, offline=dry_run), requests_of(_waiting(files))
    typer.echo(str(client.estimate(asked, batch=True)))
    if not dry_run:
        job = batch.submit(client, asked)
        typer.echo(f"[OK] batch {job.id}, remembered in {job.path}" if job else "[OK] nothing left to hand in")


@llm.command()
def collect(
    batch_id: Annotated[str | None, typer.Argument(help="A batch; all that are open.")] = None,
    store: StoreFile = None,
) -> None:
    """Fetch the replies of batches handed in earlier."""
    from confitlib.llm import batch
    from confitlib.llm.client import Client

    client = Client(given_or(store, ANSWERS))
    jobs = [job for job in batch.jobs(client.store) if batch_id in (None, job.id) and job.status not in batch.OVER]
    if not jobs:
        raise LookupError(f"no open batch{f' {batch_id}' if batch_id else ''} beside {client.store.path}")
    for job in jobs:
        done = batch.collect(client, job)
        first = next(iter(done.failures.values()), "")
        failed = f", {len(done.failures)} failed, the first because: {first}" if done.failures else ""
        typer.echo(f"{done.id}: {done.status}, {len(done.requests)} requests{failed}")
