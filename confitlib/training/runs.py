"""Training runs that resume, and what comes out of them."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import StaticBackbone, TextEncoder, load_encoder
from confitlib.mining import Negatives
from confitlib.training.batches import DocumentStore, PairCollator, PositivePairs
from confitlib.training.config import TrainingConfig, trainer_arguments
from confitlib.training.gather import process
from confitlib.training.refresh import Refresh, RefreshCallback
from confitlib.training.sharding import WholeWeights, check_settings, sharded
from confitlib.training.trainer import ContrastiveTrainer, DualEncoder
from confitlib.util import claim, content_key, results_version

DECIDES = ("corpus", "text", "encoder", "mining", "training")  # modules that decide a run
Validator = Callable[[TextEncoder], Mapping[str, float]]


@dataclass(frozen=True)
class TrainingResult:
    """A trained encoder, its training log (one row a logged step) and the wall time of the training in seconds.

    `reused`: whether `train_once` found it, so that the seconds were spent before.
    """

    encoder: TextEncoder
    history: pd.DataFrame
    seconds: float
    config: TrainingConfig = field(repr=False)
    reused: bool = False

    def save(self, folder: str | Path) -> None:
        """Write the encoder (Sentence-Transformers layout) and, last, the log beside it."""
        folder = Path(folder)
        self.encoder.save(folder)
        self.history.to_json(folder / "history.jsonl", orient="records", lines=True)
        (folder / "training.json").write_text(json.dumps({"seconds": self.seconds, "config": asdict(self.config)}))

    @classmethod
    def load(
        cls, folder: str | Path, trust_remote_code: bool = False, device: torch.device | None = None
    ) -> TrainingResult:
        """Read what `save` wrote, with the same weights frozen; `device` as in `load_encoder`."""
        folder = Path(folder)
        saved = json.loads((folder / "training.json").read_text())
        history = pd.read_json(folder / "history.jsonl", lines=True)
        encoder = load_encoder(folder, device=device, trust_remote_code=trust_remote_code)
        config = TrainingConfig(**saved["config"])
        _set_trainable(encoder, config.mode)
        return cls(encoder, history, saved["seconds"], config)


def train(
    encoder: TextEncoder,
    corpus: Corpus,
    config: TrainingConfig = TrainingConfig(),
    negatives: Mapping[Side, Negatives] | None = None,
    *,
    refresh: Refresh | None = None,
    output_dir: str | Path | None = None,
    cache: str | Path | None = None,
    validator: Validator | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train `encoder` in place on the accepted training pairs and return it at its best validation epoch.

    `negatives`: hard negatives by target side: mined (ConFit v2) or labelled rejections (ConFit v1);
    None trains with in-batch negatives only. `refresh`: mine them again as the encoder learns (ANCE). With
    `output_dir`, checkpoints are kept there and a rerun resumes from the last one, ending in the same weights as
    an uninterrupted run; raises ValueError if they are another run's. `cache` keeps the embeddings that an adapter
    is trained on. Under `torchrun` or `accelerate launch` all processes train one encoder together; they need an
    `output_dir` that all of them see.
    """
    rank, processes = process()
    _set_trainable(encoder, config.mode)
    output_dir, cache = (None if path is None else Path(path) for path in (output_dir, cache))
    _check_options(encoder, config, processes, output_dir, validator is not None)
    if output_dir is not None and rank == 0:
        _claim_folder(output_dir, _run_key(encoder, corpus, config, negatives, refresh))
    adapter = config.mode == "adapter"
    stores = {side: DocumentStore(encoder, corpus, side, adapter, cache, config.chunk) for side in SIDES}
    pairs = PositivePairs(corpus, "train", negatives, config.negatives_per_pair, config.seed)
    valid = _validation_pairs(corpus)
    trained = copy.deepcopy(encoder) if sharded() else encoder
    with tempfile.TemporaryDirectory() as scratch:
        folder = output_dir or Path(scratch)
        arguments = trainer_arguments(
            config,
            encoder,
            len(pairs),
            validated=valid is not None,
            processes=processes,
            output_dir=str(folder),
            save_only_model=output_dir is None,
            disable_tqdm=not progress or rank > 0,
        )
        trainer = ContrastiveTrainer(
            DualEncoder(trained, config.chunk is not None, config.compile),
            arguments,
            config=config,
            validate=validator and partial(validator, encoder),
            train_dataset=pairs,
            eval_dataset=valid,
            data_collator=PairCollator(stores, corpus, config.negatives_per_batch),
            callbacks=[_Epochs(pairs), *([WholeWeights(encoder)] if sharded() else [])],
        )
        if refresh is not None:
            trainer.add_callback(RefreshCallback(refresh, encoder, corpus, pairs, folder, config.seed))
        trainer.remove_callback(PrinterCallback)  # the log is in the result; without a bar it would be printed
        limit = 1 if encoder.sparse_parameters or adapter else None
        with _threads(limit), _checkpointing(trained, config.gradient_checkpointing):
            outcome = trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    encoder.eval()
    return TrainingResult(encoder, _history(trainer), outcome.metrics["train_runtime"], config)


def train_once(
    encoder: TextEncoder,
    corpus: Corpus,
    config: TrainingConfig,
    negatives: Mapping[Side, Negatives] | None = None,
    *,
    cache: str | Path,
    refresh: Refresh | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """`train`, unless the same run (weights, data, settings, negatives and code) is already in the cache.

    The trained encoder is that of the result. There is no `validator`, for no key could tell one function from
    another. `trust_remote_code`: as in `load_encoder`.
    """
    cache = Path(cache)
    folder = cache / _run_key(encoder, corpus, config, negatives, refresh)
    reused = folder.exists()
    if not reused:
        embeddings = cache / "embeddings"
        result = train(encoder, corpus, config, negatives, refresh=refresh, cache=embeddings, progress=progress)
        _save_at_once(result, folder)
    return replace(TrainingResult.load(folder, trust_remote_code, encoder.device), reused=reused)


def _run_key(
    encoder: TextEncoder,
    corpus: Corpus,
    config: TrainingConfig,
    negatives: Mapping[Side, Negatives] | None,
    refresh: Refresh | None,
) -> str:
    """A hash of everything that decides a run: weights, data, settings, negatives and code."""
    mined = {side: table.fingerprint() for side, table in (negatives or {}).items()}
    parts: dict[str, Any] = {"weights": encoder.weight_hash(), "data": corpus.fingerprint(), "config": asdict(config)}
    parts |= {"refresh": {} if refresh is None else asdict(refresh), "processes": [process()[1], sharded()]}
    return content_key(**parts, negatives=mined, version=results_version(*DECIDES))


def _save_at_once(result: TrainingResult, folder: Path) -> None:
    """Write a folder that others see complete or not at all; of two processes, the first one's stays."""
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    result.save(draft)
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)


def _claim_folder(folder: Path, key: str) -> None:
    """Mark a folder of checkpoints as those of one run; raises ValueError if it holds those of another.

    Removes checkpoints that a killed run left incomplete: transformers writes their trainer_state.json last.
    """
    mark = folder / "run.txt"
    if not claim(mark, key):
        raise ValueError(
            f"{folder} holds checkpoints of another run (data, settings, weights or code differ): empty it"
        )
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file():
            shutil.rmtree(checkpoint)


@contextmanager
def _threads(limit: int | None) -> Iterator[None]:
    """Run on so many threads: small matrices gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(limit or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _checkpointing(encoder: TextEncoder, wanted: bool) -> Iterator[None]:
    """Let a transformer compute the activations of its layers twice for a while."""
    if not wanted:
        yield
        return
    model: Any = encoder.backbone.model
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


def _set_trainable(encoder: TextEncoder, mode: Literal["full", "adapter"] | int) -> None:
    if mode == "adapter" and encoder.adapter is None:
        encoder.add_adapter()
    encoder.freeze("all" if mode == "full" else mode)
    if mode == "full" and encoder.adapter is not None and encoder.sparse_parameters:
        raise ValueError("a static encoder with an adapter mixes sparse and dense gradients: use mode='adapter'")


def _check_options(
    encoder: TextEncoder, config: TrainingConfig, processes: int, output_dir: Path | None, validated: bool
) -> None:
    """Raise ValueError for what several processes or a choice need, and for what a static encoder cannot do."""
    if output_dir is None and processes > 1:
        raise ValueError("several processes need output_dir: they meet at the checkpoints in it")
    if sharded():
        check_settings()
    if config.best_metric != "loss" and not validated:
        raise ValueError(f"best_metric={config.best_metric!r} needs a validator that returns it, or use 'loss'")
    if not isinstance(encoder.backbone, StaticBackbone):
        return
    for option in ("gradient_checkpointing", "compile"):
        if getattr(config, option):
            raise ValueError(f"{option} needs a transformer: the static encoder has no layers")
    if processes > 1 and encoder.sparse_parameters:
        raise ValueError(
            "the static encoder has sparse gradients, which several processes cannot sum: train it in one process, "
            "where it takes a minute, or with mode='adapter'"
        )


def _validation_pairs(corpus: Corpus) -> PositivePairs | None:
    if corpus.labelled("valid", 1).empty:
        warnings.warn(f"corpus {corpus.name!r} has no accepted validation pair: the last epoch is kept", stacklevel=3)
        return None
    return PositivePairs(corpus, "valid")


def _history(trainer: Trainer) -> pd.DataFrame:
    """The training log: step, epoch, loss, validation values and learning rate, without the Trainer's last summary."""
    return pd.DataFrame([row for row in trainer.state.log_history if "train_runtime" not in row])


class _Epochs(TrainerCallback):
    """Tells the dataset which epoch it is, after a resume as well."""

    def __init__(self, pairs: PositivePairs) -> None:
        self.pairs = pairs

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pairs.epoch = int(state.epoch or 0)
