"""What one of several processes does in `test_training_processes.py`: `python training_worker.py FOLDER`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, TrainingArguments

from confitlib.corpus import SIDES
from confitlib.encoder import load_encoder, loading
from confitlib.market import compose
from confitlib.mining import mine
from confitlib.training import (
    ContrastiveTrainer,
    DocumentStore,
    DualEncoder,
    PairCollator,
    PositivePairs,
    Refresh,
    TrainingConfig,
    train,
)
from confitlib.training.gather import process
from confitlib.training.sharding import sharded

SMALL = BertConfig(
    vocab_size=30_522,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
loading.SIZES["small"] = SMALL
TRAINED = TrainingConfig(epochs=2, batch_size=12, learning_rate=1e-3, seed=3)
RUNS = {
    "transformer": (
        "random:small",
        replace(TRAINED, gradient_accumulation=2, chunk=5, group_by_length=True),
        None,
    ),
    "adapter": ("static", replace(TRAINED, mode="adapter"), Refresh("top", {"n": 2})),
}


def hard_negatives(corpus):
    """Mined for half of the queries only, so that processes have different numbers of them."""
    found = {side: mine("random", corpus, target=side, n=3, seed=0) for side in SIDES}
    return {side: replace(one, table=one.table[one.table["query_id"].str[-1] < "5"]) for side, one in found.items()}


def first_component(encoder):
    """A metric that depends on all weights."""
    return {"first": float(encoder.encode(["a senior accountant"], progress=False)[0, 0])}


def validated(result):
    """What was measured after each epoch."""
    return [result.history[name].dropna().tolist() for name in ("eval_loss", "eval_first")]


def run(name, corpus, processes=1, output_dir=None):
    """A training run with the same number of pairs a step, however many processes share them."""
    encoder, config, refresh = RUNS[name]
    config = replace(config, batch_size=config.batch_size // processes)
    encoder = load_encoder(encoder, max_length=24, device="cpu")
    options = {"refresh": refresh, "output_dir": output_dir, "validator": first_component, "progress": False}
    return train(encoder, corpus, config, hard_negatives(corpus), **options)


def loss_and_gradients(corpus, rank, processes, folder, pairs):
    """The loss of this process's share of `pairs` pairs and its gradients, in dict order of the parameters."""
    share = -(-pairs // processes)
    encoder = load_encoder("random:small", max_length=24, device="cpu").train()
    data = PositivePairs(corpus, "train", hard_negatives(corpus))
    collate = PairCollator({side: DocumentStore(encoder, corpus, side, False) for side in SIDES}, corpus, None)
    numbers = [number if number < pairs else -1 for number in range(rank * share, (rank + 1) * share)]
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    trainer = ContrastiveTrainer(
        DualEncoder(encoder), arguments, config=TRAINED, train_dataset=data, data_collator=collate
    )
    model = DistributedDataParallel(trainer.model) if processes > 1 else trainer.model
    loss = trainer.compute_loss(model, collate([data[number] for number in numbers]))
    loss.backward()
    gradients = {name: one.grad for name, one in encoder.named_parameters() if one.grad is not None}
    return {"loss": loss.detach(), **gradients}


def shard_on_cpus():
    """Let accelerate do on CPUs what it keeps to accelerators: torch's FSDP itself works on both."""
    initialise = AcceleratorState.__init__

    def initialise_sharded(state, *args, fsdp_plugin=None, **kwargs):
        initialise(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = initialise_sharded


def main(folder):
    rank, processes = process()
    corpus = compose("tiny", seed=0).corpus
    if sharded():
        shard_on_cpus()
    else:
        for pairs in (16, 15, 1):
            found = loss_and_gradients(corpus, rank, processes, folder / "loss", pairs)
            torch.save(found, folder / f"loss-{pairs}-{rank}.pt")
    for name in RUNS:
        for attempt in ("first", "again"):  # the second one starts from the last checkpoint
            result = run(name, corpus, processes, folder / name)
            torch.save(result.encoder.state_dict(), folder / f"{name}-{attempt}-{rank}.pt")
        (folder / f"{name}-{rank}.json").write_text(json.dumps(validated(result)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
