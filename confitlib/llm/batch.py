"""The Batch API: hand in many requests at once, come back for the answers, at the provider's lower price."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from confitlib.llm.client import Client, in_worker_thread
from confitlib.llm.replies import MalformedReply, parse_object, read_chat, usage_of
from confitlib.llm.requests import Request
from confitlib.llm.store import Store
from confitlib.util import atomic, content_key

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ENDPOINT: Final = "/v1/chat/completions"
WINDOW: Final = "24h"
OVER = ("collected", "failed", "expired", "cancelled")


@dataclass
class Job:
    """A batch handed in, as its JSON file beside the store remembers it: enough to resume in another process.

    The file is written before the batch is created and names the uploaded input, so that a batch whose
    id a killed process never saw is found again instead of being paid for twice.
    """

    path: str
    requests: list[dict[str, Any]]
    file: str | None = None
    id: str | None = None
    status: str = "new"
    failures: dict[str, str] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file whole or not at all."""
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        with atomic(Path(self.path)) as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    def by_name(self) -> dict[str, Request]:
        """Its requests by fingerprint."""
        return {request.fingerprint(): request for request in map(Request.from_payload, self.requests)}


def jobs(store: Store) -> list[Job]:
    """Every batch handed in for a store."""
    files = sorted(store.path.parent.glob(f"{store.path.name}.batch-*.json"))
    return [Job(path=str(file), **json.loads(file.read_text(encoding="utf-8"))) for file in files]


def submit(client: Client, requests: Sequence[Request]) -> Job | None:
    """Hand in what the store lacks and no open batch holds; None if that is nothing.

    Raises ValueError if the client's budget could be crossed or a model has no price to hold it against,
    LookupError if there is no endpoint.
    """
    open_jobs = [job for job in jobs(client.store) if job.status not in OVER]
    under_way = {name: request for job in open_jobs for name, request in job.by_name().items()}
    missing = {ask.fingerprint(): ask for _, ask in client.pending(requests)}
    wanted = {name: ask for name, ask in missing.items() if name not in under_way}
    if not wanted:
        return None
    client.check_batch(list(wanted.values()), list(under_way.values()))
    key = content_key(names=sorted(wanted), earlier=len(jobs(client.store)))
    job = Job(f"{client.store.path}.batch-{key}.json", [ask.payload() for ask in wanted.values()])
    in_worker_thread(_hand_in(client, job))
    return job


def collect(client: Client, job: Job) -> Job:
    """Ask for a batch; once it is over, its replies go into the store and its failures into the job.

    A batch without an id (its process was killed) is looked up by its input, and created if it is not there.
    """
    in_worker_thread(_hand_in(client, job) if job.id is None else _fetch(client, job))
    return job


async def _hand_in(client: Client, job: Job) -> None:
    async with client.connection() as api:
        if job.file is None:
            lines = [_line(name, request) for name, request in job.by_name().items()]
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
            job.file = (await api.files.create(file=("requests.jsonl", content), purpose="batch")).id
            job.save()
        else:
            job.id = await _find(api, job.file)
        if job.id is None:
            made = await api.batches.create(input_file_id=job.file, endpoint=ENDPOINT, completion_window=WINDOW)
            job.id = made.id
        job.status = "submitted"
        job.save()


async def _find(api: AsyncOpenAI, file: str) -> str | None:
    async for batch in api.batches.list():
        if batch.input_file_id == file:
            return batch.id
    return None


def _line(name: str, request: Request) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": request.body()}


async def _fetch(client: Client, job: Job) -> None:
    async with client.connection() as api:
        batch = await api.batches.retrieve(job.id or "")
        files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
        over = batch.status in ("completed", "expired", "cancelled", "failed")
        for file in files if over else []:
            _take(client, job, (await api.files.content(file)).text)
        for error in (batch.errors and batch.errors.data) or []:  # why the whole batch was turned down
            job.failures[f"line {error.line}"] = client.scrub(str(error.message))
        job.status = "collected" if over and files else batch.status
        job.save()


def _take(client: Client, job: Job, content: str) -> None:
    """Store every reply of a result file; a line without one is kept as the failure of its request."""
    requests = job.by_name()
    for line in map(parse_object, filter(str.strip, content.split("\n"))):
        name, response = line.get("custom_id", ""), line.get("response") or {}
        try:
            reply = read_chat(response.get("body") or {})
        except MalformedReply as error:
            job.failures[name] = client.scrub(_said(line, error))
            continue
        if name in requests:
            if name not in client.store:
                client.charge(requests[name].model, usage_of(reply), batch=True)
            client.store.add(requests[name], **reply, origin="batch")


def _said(line: Mapping[str, Any], error: MalformedReply) -> str:
    body = (line.get("response") or {}).get("body") or {}
    return str((line.get("error") or body.get("error") or {}).get("message") or error)
