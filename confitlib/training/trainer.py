"""Training runs on `transformers.Trainer`: they resume, repeat, and share a batch over several processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import Embeddings, TextEncoder, load_encoder
from confitlib.encoder.model import card_section, model_card
from confitlib.mining import Negatives, check_mining, mine
from confitlib.text import texts
from confitlib.training.loss import contrastive_loss
from confitlib.training.optimizer import RowAdam
from confitlib.training.pairs import DocumentStore, Mined, PairCollator, PairSampler, PositivePairs, filler
from confitlib.util import RESULTS_VERSION, check_range, checked, claim, content_key, read_yaml


@checked
@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training run; the defaults suit the static encoder on the laptop market.

    `mode`: "full", "adapter" (a linear layer on cached embeddings), or k: the top k layers, on cached activations.
    `negatives_per_pair`: hard negatives drawn anew each epoch for a pair, on each side.
    `negatives_per_batch`: cap of each side's hard negatives in a batch (official: 2), or None.
    `official`: the released loss, in which every other document of the batch is a negative
    (confit.py:667-696); otherwise known positives are masked.
    `chunk`: documents embedded at a time. Activations of one chunk alone are kept, whatever the batch, at the price
    of a second forward pass; the gradients stay those of the whole batch (Gao et al. 2021, gradient caching).
    `group_by_length`: batches of pairs of similar length.
    `temperature`: officially 0.05; 0.2 is better for the static encoder (`sweeps/tuning.yaml`).
    `keep`: the encoder of the "last" epoch, at which the rate has fallen to zero, or of the "best" one, that of the
    lowest validation loss (as the official code does), which may be another epoch in every run.
    `weight_decay` and `max_grad_norm` leave the static encoder's own vectors alone.
    With several processes, `batch_size` and `negatives_per_batch` count those of each (docs/training.md).

    >>> from confitlib import TrainingConfig
    >>> config = TrainingConfig(epochs=1, batch_size=8)
    >>> config.epochs, config.temperature
    (1, 0.2)
    """

    mode: Literal["full", "adapter"] | int = "full"
    epochs: int = 2
    batch_size: int = 4
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 10.0
    temperature: float = 0.2
    lambda_: float = 0.5
    negatives_per_pair: int = 1
    negatives_per_batch: int | None = None
    official: bool = False
    chunk: int | None = None
    group_by_length: bool = False
    keep: Literal["last", "best"] = "last"
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "epochs", "batch_size", "gradient_accumulation", "chunk", least=1)
        check_range(self, *(["mode"] if isinstance(self.mode, int) else []), least=1)
        check_range(self, "learning_rate", "temperature", above=0)
        check_range(self, "warmup", "lambda_", most=1)
        check_range(self, "weight_decay", "max_grad_norm", "negatives_per_pair", "negatives_per_batch", "seed")


def trainer_arguments(
    config: TrainingConfig, encoder: TextEncoder, n_pairs: int, validated: bool, processes: int, **others: Any
) -> TrainingArguments:
    """Arguments of a run over `n_pairs` pairs; a process uses one card, however many there are."""
    # as the Trainer counts them
    steps = math.ceil(n_pairs / (config.batch_size * processes * config.gradient_accumulation)) * config.epochs
    on_gpu = encoder.device.type == "cuda"
    arguments = TrainingArguments(
        # how long and how fast to learn: the official shape, linear warm-up, then linear decay
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        warmup_steps=int(config.warmup * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=0.0 if encoder.sparse_parameters else config.max_grad_norm,
        seed=config.seed,
        # which epoch to keep
        eval_strategy="epoch" if validated else "no",
        load_best_model_at_end=config.keep == "best",
        # device and precision
        bf16=on_gpu,
        use_cpu=encoder.device.type == "cpu",
        dataloader_pin_memory=on_gpu,
        logging_steps=max(1, steps // 100),
        **read_yaml(Path(__file__).with_name("arguments.yaml"), dict),
        **others,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # else the Trainer would split batches that cannot be split
    return arguments


def process() -> tuple[int, int]:
    """Rank of this process and number of all, as `torchrun` and `accelerate launch` announce them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def gather_parts(parts: Sequence[Tensor]) -> list[Tensor]:
    """Each part `[n, ...]` of all processes in one tensor, in the order of their ranks; n may differ by process.

    Every process is to compute the same loss from what it gets. The gradients of its own rows are then summed over
    the processes, which makes them too large by the number of processes: data-parallel wrappers divide by it.
    """
    # 1. the lengths of all parts  [processes, parts]
    lengths = torch.stack(all_gather(torch.tensor([len(part) for part in parts], device=parts[0].device))).tolist()
    # 2. one block a process, padded to the longest
    block, longest = torch.cat(list(parts)), max(map(sum, lengths))
    blocks = all_gather(torch.cat([block, block.new_zeros(longest - len(block), *block.shape[1:])]))
    # 3. cut back into parts, and each part put together
    by_process = [one[: sum(cuts)].split(cuts) for one, cuts in zip(blocks, lengths, strict=True)]
    return [torch.cat(part) for part in zip(*by_process, strict=True)]


class DualEncoder(nn.Module):
    """One shared encoder applied to both sides of a batch, in one forward call.

    Documents are embedded part by part. With `again`, no activations are kept: the backward pass embeds each part
    again, with the same dropout, and back-propagates it before the next.
    """

    def __init__(self, encoder: TextEncoder, again: bool = False) -> None:
        super().__init__()
        self.encoder, self.again = encoder, again

    def forward(self, resumes: dict[str, Any], jobs: dict[str, Any]) -> tuple[Tensor, ...]:
        """Embeddings of both sides' documents, un-normalised."""
        embed: Any = partial(checkpoint, self.encoder, use_reentrant=False) if self.again else self.encoder
        return tuple(torch.cat([embed(part) for part in side["parts"]])[side["places"]] for side in (resumes, jobs))


class ContrastiveTrainer(Trainer):
    """`transformers.Trainer` with the two-sided loss over a batch of pairs and sparse updates."""

    def __init__(self, *args: Any, config: TrainingConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)  # the log is in the result
        self.config = config
        self.can_return_loss = True  # evaluation has no label column: the batch itself defines the loss
        encoder = self.model.encoder
        if encoder.sparse_parameters:  # a step changes the tokens of its batch only; else the Trainer makes an AdamW
            adam = RowAdam if encoder.device.type == "cpu" else torch.optim.SparseAdam
            self.optimizer = adam(list(encoder.backbone.parameters()), lr=self.args.learning_rate)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The contrastive loss of one batch, in training that of all processes together.

        Raises FloatingPointError if a training loss is not finite.
        """
        # 1. vectors of both sides, cut into those of the pairs  [pairs, d]  and of the hard negatives  [hard, d]
        pairs, resume_rows, job_rows = len(inputs["masked_jobs"]), inputs["resume_rows"], inputs["job_rows"]
        resumes, jobs = model(inputs["resumes"], inputs["jobs"])
        resumes, jobs = resumes[: len(resume_rows)], jobs[: len(job_rows)]  # without the filler of an empty share
        parts = [resumes[:pairs], jobs[:pairs], resumes[pairs:], jobs[pairs:]]
        masks: dict[str, Any] = {name: inputs[name] for name in ("masked_jobs", "masked_resumes")}
        # 2. several processes: everybody's vectors, and the masks of the batch that they make together
        if self.args.world_size > 1 and model.training:
            rows = gather_parts([resume_rows[:pairs], job_rows[:pairs], resume_rows[pairs:], job_rows[pairs:]])
            both = (torch.cat(side).cpu().numpy() for side in (rows[::2], rows[1::2]))  # resumes, jobs
            masks = self._prepare_input(self.data_collator.masks(*both, len(rows[0])))
            parts = gather_parts(parts)
        # 3. the loss
        config = self.config
        masks |= {"temperature": config.temperature, "lambda_": config.lambda_, "official": config.official}
        loss = contrastive_loss(*parts, **masks)
        if model.training and not torch.isfinite(loss):
            what = f"the loss is {loss.item()} at step {self.state.global_step + 1}"
            tried = f"learning_rate={config.learning_rate}, temperature={config.temperature}"
            raise FloatingPointError(f"{what} ({tried}): lower the learning rate or raise the temperature")
        return (loss, {}) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> PairSampler:
        """Asked for by the Trainer: the order of the training pairs."""
        pairs, stores, processes, lengths = self.train_dataset, self.data_collator.stores, self.args.world_size, None
        if self.config.group_by_length:
            lengths = np.sum([stores[side].lengths[pairs.rows[side]] for side in SIDES], axis=0)
        return PairSampler(pairs, self.config.batch_size * processes, processes, lengths)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Asked for by the Trainer: all validation pairs, and an equal share of them for each process."""
        n, processes = len(eval_dataset), self.args.world_size
        return [*range(n), *filler(n, self.args.eval_batch_size * processes, processes)]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Asked for by the Trainer even where it does not clip; torch has no norm of sparse gradients."""
        return None if self.model.encoder.sparse_parameters else super()._get_grad_norm(model, grad_norm)


@checked
@dataclass(frozen=True)
class Refresh:
    """Mine both sides again before the epochs `every, 2 x every, …` of a run, counted from 0.

    `strategy` and `parameters` are those of `mine`. Until the first refresh a run has the negatives it was given.
    Source: ANCE (Xiong et al. 2020, arXiv 2007.00808); its released code keeps 20 of the top 200 a query, and
    refreshes every 10,000 steps, where we count epochs.
    """

    strategy: str = "ance"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"n": 20})
    every: int = 1

    def __post_init__(self) -> None:
        check_range(self, "every", least=1)
        check_mining(self.strategy, **self.parameters)

    def mine(self, encoder: TextEncoder, corpus: Corpus, seed: int, epoch: int) -> dict[Side, Negatives]:
        """Negatives of both sides by the encoder as it is; every epoch has draws of its own."""
        drawn = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
        ask = {"embeddings": Embeddings.of_corpus(encoder, corpus), "seed": drawn, **self.parameters}
        return {side: mine(self.strategy, corpus, target=side, **ask) for side in SIDES}


class EpochCallback(TrainerCallback):
    """Shows the steps, tells the pairs which epoch it is, and exchanges their negatives when that is due.

    What was mined is kept in the run's folder: a resumed run has other weights than those it was mined with. Of
    several processes the first one mines and the others read.
    """

    def __init__(
        self, pairs: PositivePairs, encoder: TextEncoder, folder: Path, refresh: Refresh | None, bar: tqdm
    ) -> None:
        self.pairs, self.encoder, self.folder, self.refresh, self.bar = pairs, encoder, folder, refresh, bar
        self.current = 0  # the epoch before which the negatives were mined

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the bar how many steps there are."""
        self.bar.reset(state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar, after a resume from where the run was."""
        self.bar.update(state.global_step - self.bar.n)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mine when it is due; after a resume in between, read what was mined last."""
        # 1. is anything due; `due` is the epoch of the last refresh
        self.pairs.epoch = epoch = int(state.epoch or 0)
        if self.refresh is None or (due := epoch - epoch % self.refresh.every) == self.current:
            return
        # 2. the first process mines and writes, unless a run was resumed in between; all of them read
        folder = self.folder / f"negatives-{due}"
        with args.main_process_first():
            if epoch == due and args.process_index == 0:
                for side, mined in self.refresh.mine(self.encoder, self.pairs.corpus, self.pairs.seed, epoch).items():
                    mined.save(folder / side)
        self.pairs.use({side: Negatives.load(folder / side) for side in SIDES})
        self.current = due


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

    def save(self, folder: str | Path, metrics: Mapping[str, float] | None = None) -> None:
        """Write the encoder, with `metrics` in its model card, and, last, the log beside it."""
        self.encoder.card += f"\n{card_section('Metrics', metrics)}" if metrics else ""
        folder = self.encoder.save(folder)
        self.history.to_json(folder / "history.jsonl", orient="records", lines=True)
        (folder / "training.json").write_text(json.dumps({"seconds": self.seconds, "config": asdict(self.config)}))

    @classmethod
    def load(cls, folder: str | Path, trust_remote_code: bool = False, device: torch.device | None = None) -> Self:
        """Read what `save` wrote, with the same weights frozen; `device` as in `load_encoder`."""
        saved = json.loads(Path(folder, "training.json").read_text())
        history = pd.read_json(Path(folder, "history.jsonl"), lines=True)
        encoder = load_encoder(folder, device=device, trust_remote_code=trust_remote_code)
        config = TrainingConfig(**saved["config"])
        _set_trainable(encoder, config.mode)
        return cls(encoder, history, saved["seconds"], config)


@checked
def train(
    encoder: TextEncoder,
    corpus: Corpus,
    config: TrainingConfig = TrainingConfig(),
    negatives: Mined | None = None,
    *,
    refresh: Refresh | None = None,
    output_dir: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train `encoder` in place on the accepted training pairs and return it as `config.keep` says.

    `negatives`: hard negatives by target side: mined (ConFit v2) or labelled rejections (ConFit v1);
    None trains with in-batch negatives only. `refresh`: mine them again as the encoder learns (ANCE). With
    `output_dir`, checkpoints are kept there and a rerun resumes from the last one, ending in the same weights as
    an uninterrupted run; raises ValueError if they are another run's. `cache` keeps what stays the same while an
    adapter or the top layers are trained: embeddings, or the activations of the layers below. Under `torchrun` or
    `accelerate launch` all processes train one encoder together; they need an `output_dir` that all of them see.

    >>> from confitlib import TrainingConfig, compose, load_encoder, train
    >>> corpus = compose("tiny").corpus
    >>> result = train(load_encoder("static"), corpus, TrainingConfig(epochs=1, batch_size=16), progress=False)
    >>> result.encoder.encode(["nurse"]).shape
    (1, 384)
    """
    rank, processes = process()
    _set_trainable(encoder, config.mode)
    if processes > 1 and output_dir is None:
        raise ValueError("several processes need output_dir: they meet at the checkpoints in it")
    if processes > 1 and encoder.sparse_parameters:
        raise ValueError("sparse gradients: train the static encoder in one process or with mode='adapter'")
    if config.batch_size * processes == 1 and not negatives:
        raise ValueError("batch_size=1: a pair alone has no negatives; take at least 2, or pass mined negatives")
    # 1. what to learn from
    pairs = PositivePairs(corpus, "train", negatives, config.negatives_per_pair, config.seed)
    valid = None if corpus.labelled("valid", 1).empty else PositivePairs(corpus, "valid")
    if valid is None and config.keep == "best":
        raise ValueError(f"corpus {corpus.name!r} has no accepted validation pair: choose keep='last'")
    bar = tqdm(desc=f"train ({encoder.name})", unit="step", disable=not progress or rank > 0)
    with tempfile.TemporaryDirectory() as scratch, bar, ExitStack() as after:
        folder, stores, adapter = Path(output_dir or scratch), {}, config.mode == "adapter"
        for side in SIDES:
            documents = list(texts(corpus, side))
            frozen = encoder.embed_frozen(documents, progress, cache) if adapter else None
            below = encoder.embed_lower(documents, cache or scratch, progress) if encoder.top_layers else None
            stores[side] = DocumentStore(encoder, documents, frozen, below, config.chunk)
        if output_dir is not None and rank == 0:
            _claim_folder(folder, _run_key(encoder, corpus, config, negatives, refresh))
        # 2. how
        where = {"output_dir": str(folder), "save_only_model": output_dir is None}
        trainer = ContrastiveTrainer(
            DualEncoder(encoder, again=config.chunk is not None),
            trainer_arguments(config, encoder, len(pairs), valid is not None, processes, **where),
            config=config,
            train_dataset=pairs,
            eval_dataset=valid,
            data_collator=PairCollator(stores, corpus, config.negatives_per_batch),
            callbacks=[EpochCallback(pairs, encoder, folder, refresh, bar)],
        )
        # 3. run, small matrices on one thread: they gain nothing from more, and lose much on a busy machine
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1 if encoder.sparse_parameters or adapter else torch.get_num_threads())
        outcome = trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    encoder.eval()
    data = {"corpus": corpus.name, "training pairs": len(pairs), "fingerprint": corpus.fingerprint()}
    encoder.card = model_card(encoder.name, {"Data": data, "Training": asdict(config)})
    # the last entry is the Trainer's summary
    history = pd.DataFrame([row for row in trainer.state.log_history if "train_runtime" not in row])
    return TrainingResult(encoder, history, outcome.metrics["train_runtime"], config)


def train_once(
    encoder: TextEncoder,
    corpus: Corpus,
    config: TrainingConfig,
    *,
    cache: str | Path,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """`train` without hard negatives, unless the same run (weights, data, settings, code) is already in the cache.

    The trained encoder is that of the result. `trust_remote_code`: as in `load_encoder`.
    """
    cache = Path(cache)
    folder = cache / _run_key(encoder, corpus, config, None, None)
    reused = folder.exists()
    if not reused:
        result = train(encoder, corpus, config, cache=cache / "embeddings", progress=progress)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as draft:
            result.save(Path(draft, "run"))
            with suppress(OSError):  # others see the whole folder or none; of two processes, the first one's stays
                Path(draft, "run").rename(folder)
    return replace(TrainingResult.load(folder, trust_remote_code, encoder.device), reused=reused)


def _run_key(
    encoder: TextEncoder, corpus: Corpus, config: TrainingConfig, negatives: Mined | None, refresh: Refresh | None
) -> str:
    """A hash of everything that decides a run: weights, data, settings, negatives and the versions of our results."""
    mined = {side: table.fingerprint() for side, table in (negatives or {}).items()}
    parts: dict[str, Any] = {"weights": encoder.weight_hash(), "data": corpus.fingerprint(), "config": asdict(config)}
    parts |= {"refresh": {} if refresh is None else asdict(refresh), "processes": process()[1]}
    version = {module: RESULTS_VERSION[module] for module in ("corpus", "text", "encoder", "mining", "training")}
    return content_key(**parts, negatives=mined, version=version)


def _claim_folder(folder: Path, key: str) -> None:
    """Mark a folder of checkpoints as those of one run; raises ValueError if it holds those of another.

    Removes checkpoints that a killed run left incomplete: transformers writes their trainer_state.json last.
    """
    if not claim(folder / "run.txt", key):
        raise ValueError(f"{folder} holds checkpoints of another run (other data, settings or weights): empty it")
    for kept in folder.glob("checkpoint-*"):
        if not (kept / "trainer_state.json").is_file():
            shutil.rmtree(kept)


def _set_trainable(encoder: TextEncoder, mode: Literal["full", "adapter"] | int) -> None:
    """Leave trainable what a mode trains, with an adapter where it asks for one."""
    if mode == "adapter" and encoder.adapter is None:
        encoder.add_adapter()
    encoder.freeze("all" if mode == "full" else mode)
    if mode == "full" and encoder.adapter is not None and encoder.sparse_parameters:
        raise ValueError("a static encoder with an adapter mixes sparse and dense gradients: use mode='adapter'")
