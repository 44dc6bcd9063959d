"""Several processes train as one with their batches put together: two of them, over the loopback interface."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_worker as worker

from confitlib.encoder import load_encoder
from confitlib.training import TrainingConfig, train

WORKER = Path(worker.__file__)
pytestmark = pytest.mark.xdist_group("training processes")  # one worker, so that the processes start once
NOISE = "key.bias"  # softmax ignores it: its gradient is rounding noise, which Adam blows up


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes wrote."""
    found = tmp_path_factory.mktemp("processes")
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    ranks = [{**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    command = [sys.executable, str(WORKER), str(found)]
    both = [subprocess.Popen(command, env=one, stderr=subprocess.PIPE, text=True) for one in ranks]
    try:
        errors = [one.communicate(timeout=300)[1] for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], "\n".join(errors)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [16, 15, 1])  # even shares, a ragged one, and a process without any pair
def test_loss_and_gradients_are_those_of_one_process(tiny, folder, tmp_path, pairs):
    whole = worker.loss_and_gradients(tiny, 0, 1, tmp_path, pairs)
    assert len(whole) > 20
    for rank in range(2):
        shared = torch.load(folder / f"loss-{pairs}-{rank}.pt")
        assert shared.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(shared[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", worker.RUNS)
def test_a_run_ends_in_the_weights_of_one_process(tiny, folder, tmp_path, name):
    one = worker.run(name, tiny, output_dir=tmp_path)
    weights, same = (torch.load(folder / f"{name}-{rank}.pt") for rank in range(2))
    for key, value in one.encoder.state_dict().items():
        assert torch.equal(weights[key], same[key])
        if NOISE not in key:
            torch.testing.assert_close(weights[key], value, atol=2e-5, rtol=1e-3)
    losses = json.loads((folder / f"{name}-0.json").read_text())
    assert losses == pytest.approx(one.history["eval_loss"].dropna().tolist(), abs=1e-5)


def test_several_processes_need_a_common_folder_and_dense_gradients(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="need output_dir"):
        train(load_encoder("static"), tiny, TrainingConfig())
    with pytest.raises(ValueError, match="one process"):
        train(load_encoder("static"), tiny, TrainingConfig(), output_dir=tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP"):
        train(load_encoder("static"), tiny, TrainingConfig(), output_dir=tmp_path)
