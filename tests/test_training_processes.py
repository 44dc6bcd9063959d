"""Several processes train as one with their batches put together: two of them, over the loopback interface."""

import contextlib
import json
import os
import signal
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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launcher, "--master-addr", "127.0.0.1", "--master-port", str(free_port()), str(WORKER), str(found)]
    launched = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        errors = launched.communicate(timeout=900)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launched.pid, signal.SIGKILL)
    assert launched.returncode == 0, errors
    return found


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [16, 15, 1])  # even shares, a ragged one, and a process without any pair
def test_loss_and_gradients_are_those_of_one_process(tiny, folder, tmp_path, pairs):
    whole = worker.loss_and_gradients(tiny, 0, 1, tmp_path / "loss", pairs)
    assert len(whole) > 20
    for rank in range(2):
        shared = torch.load(folder / f"loss-{pairs}-{rank}.pt")
        assert shared.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(shared[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", worker.RUNS)
def test_a_run_ends_in_the_weights_of_one_process(tiny, folder, tmp_path, name):
    one = worker.run(name, tiny, tmp_path / name)
    weights, *copies = (torch.load(path) for path in sorted(folder.glob(f"{name}-*.pt")))
    assert len(copies) == 3  # of the other process, and of both after a resume
    for key, value in one.encoder.state_dict().items():
        assert all(torch.equal(weights[key], copy[key]) for copy in copies)
        if NOISE not in key:
            torch.testing.assert_close(weights[key], value, atol=2e-5, rtol=1e-3)
    for rank in range(2):
        found = json.loads((folder / f"{name}-{rank}.json").read_text())
        assert found == pytest.approx(worker.validated(one), abs=2e-5)


def test_several_processes_need_a_common_folder_and_dense_gradients(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="need output_dir"):
        train(load_encoder("static"), tiny, TrainingConfig())
    with pytest.raises(ValueError, match="one process"):
        train(load_encoder("static"), tiny, TrainingConfig(), output_dir=tmp_path)
