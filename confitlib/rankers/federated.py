"""FedPJF: a dual encoder trained by clients that keep their pairs, averaged by a server, with differential privacy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import load_encoder
from confitlib.mining import Embeddings
from confitlib.mining.removal import known_positive_mask
from confitlib.rankers.base import VectorRanker, named_for_jobs, trained_weights
from confitlib.rankers.federation import Adapter, FederatedConfig, LocalClient, Server
from confitlib.text import texts

WEIGHTS, HISTORY, PRIVACY = "adapter.safetensors", "history.jsonl", "privacy.json"


class FedPJF(VectorRanker):
    """Federated training over the owners of jobs (Zhang, Liu, Qian 2023), all clients simulated in one process.

    `clients`: a text field of the jobs whose values name the owners (the market's `location`: one platform a city), or
    a mapping from job ids to owners. The local model is a residual map on frozen vectors of `encoder`, small so that
    noise does not drown it. Encoder, equations and ε of the paper are not available: clipping is after Andrew et al.
    2021, the correction a model-contrastive term. `confitlib.rankers.flower` runs the same clients over a network.
    """

    name = "FedPJF"

    def __init__(
        self,
        clients: str | Mapping[str, str] = "location",
        config: FederatedConfig = FederatedConfig(),
        encoder: str = "static",
    ) -> None:
        self.clients, self.config, self.encoder = clients, config, encoder

    def learn(self, corpus: Corpus) -> Self:
        """Run all rounds; the last round's model is kept, for a choice by validation would spend privacy."""
        clients = self.local_clients(corpus)
        server = self.server(clients)
        bar = tqdm(range(self.config.rounds), desc=f"{self.name}: train", unit="round", delay=2)
        for round_ in bar:
            uploads = [clients[name].fit(server.weights, round_, server.clip) for name in server.draw(round_)]
            server.step(round_, uploads)
        return self.take(server)

    def take(self, server: Server) -> Self:
        """Take over what a server has learnt."""
        dim = server.weights[0].shape[1]
        self.adapter, self.epsilon = Adapter(dim, self.config.rank).put(server.weights), server.epsilon
        self.history = pd.DataFrame(server.history)
        return self

    def local_clients(self, corpus: Corpus) -> dict[str, LocalClient]:
        """Every owner of an accepted training pair; raises ValueError without two, or for a job without an owner."""
        table = corpus.labelled("train", 1)
        owners = table["job_id"].map(named_for_jobs(corpus, self.clients, "clients"))
        if owners.nunique() < 2:
            raise ValueError(
                f"corpus {corpus.name!r} has accepted training pairs of {owners.nunique()} clients: "
                "federated training needs two; pass another column or a mapping of job ids"
            )
        rows = {side: corpus.positions(side, table[f"{side}_id"]) for side in SIDES}
        vectors, known = self._vectors(corpus), known_positive_mask(corpus, "job")
        made = {}
        for number, (name, places) in enumerate(sorted(owners.groupby(owners).indices.items())):
            own = {side: rows[side][places] for side in SIDES}
            matches = known[own["resume"]][:, own["job"]].toarray() > 0
            resumes, jobs = (vectors[side][torch.from_numpy(own[side])] for side in SIDES)
            made[str(name)] = LocalClient(str(name), number, resumes, jobs, matches, self.config)
        return made

    def server(self, clients: Mapping[str, LocalClient]) -> Server:
        """A server at the start of training."""
        dim = next(iter(clients.values())).vectors[0].shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            return Server(list(clients), Adapter(dim, self.config.rank).weights(), self.config)

    def _vectors(self, corpus: Corpus) -> dict[Side, Tensor]:
        encoder = load_encoder(self.encoder)
        documents = {side: texts(corpus, side).tolist() for side in SIDES}
        return {side: torch.from_numpy(encoder.encode(documents[side], progress=False)) for side in SIDES}

    def index(self, corpus: Corpus) -> Self:
        """Vectors of every document."""
        self.corpus, vectors = corpus, self._vectors(corpus)
        with torch.inference_mode():
            self.embeddings = Embeddings(*(F.normalize(self.adapter(vectors[side]), dim=1).numpy() for side in SIDES))
        return self

    @property
    def n_parameters(self) -> int:
        """The weights of the residual map, which is all that travels."""
        return trained_weights(self.adapter)

    def _save_learnt(self, folder: Path) -> None:
        save_file(self.adapter.state_dict(), folder / WEIGHTS)
        self.history.to_json(folder / HISTORY, orient="records", lines=True)
        spent = self.epsilon if np.isfinite(self.epsilon) else None
        (folder / PRIVACY).write_text(json.dumps({"epsilon": spent, "delta": self.config.delta}))

    def _load_learnt(self, folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        self.adapter = Adapter(state["down.weight"].shape[1], self.config.rank)
        self.adapter.load_state_dict(state)
        self.history = pd.read_json(folder / HISTORY, lines=True)
        spent = json.loads((folder / PRIVACY).read_text())["epsilon"]
        self.epsilon = np.inf if spent is None else spent
