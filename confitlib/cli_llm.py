"""Language models: requests that wait for an answer, answers that come back, stores of replies."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from confitlib.util import given_or, short_path

llm = typer.Typer(no_args_is_help=True, help=__doc__)

ANSWERS = "records/llm/answers.jsonl"
StoreFile = Annotated[Path | None, typer.Option("--store", help=f"The file of replies; {ANSWERS}.")]


@llm.command()
def stats(files: Annotated[list[Path] | None, typer.Argument(help=f"Files of replies; {ANSWERS}.")] = None) -> None:
    """Count replies, tokens and cost by model; a damaged file is named with its line."""
    from confitlib.llm import Store, Usage
    from confitlib.llm.client import load_prices
    from confitlib.llm.requests import usage_of

    prices = load_prices()
    for path in files or [given_or(None, ANSWERS)]:
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        store = Store(path)
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
    typer.echo(f"{taken} answers taken, {there} already there, {len(rejected)} rejected")
    raise typer.Exit(1 if rejected else 0)
