"""The clients of FedPJF as processes of their own, on the Flower engine; needs `confitlib[federated]`."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before the import: nothing is reported to outside services

try:
    import flwr
except ImportError as error:
    raise ImportError("federated training over a network needs Flower: pip install confitlib[federated]") from error
from flwr.common import FitIns, GetPropertiesIns, ndarrays_to_parameters, parameters_to_ndarrays

from confitlib.corpus import Corpus
from confitlib.rankers.federated import FedPJF
from confitlib.rankers.federation import LocalClient, Server, Upload

ASK_SECONDS = 60.0
JOIN_SECONDS = 300


class FlowerClient(flwr.client.NumPyClient):
    """A local client that answers a Flower server."""

    def __init__(self, client: LocalClient) -> None:
        self.client = client

    def get_properties(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The client's name, by which the server draws it."""
        return {"name": self.client.name}

    def fit(self, parameters: Any, config: Mapping[str, Any]) -> tuple[Any, int, dict[str, Any]]:
        """One round of local training; the change of the weights travels in the place of the weights."""
        upload = self.client.fit(parameters, int(config["round"]), float(config["clip"]))
        facts = {"name": upload.client, "loss": upload.loss, "unclipped": upload.unclipped}
        return upload.delta, upload.pairs, facts


class FlowerStrategy(flwr.server.strategy.Strategy):
    """Lets FedPJF's own server draw, average and account; equal seeds give the weights of the simulation."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def initialize_parameters(self, client_manager: Any) -> Any:
        """The weights at the start, once every client is here; raises RuntimeError if one stays away."""
        wanted = len(self.server.clients)
        if not client_manager.wait_for(wanted, timeout=JOIN_SECONDS):
            missing = wanted - client_manager.num_available()
            raise RuntimeError(f"{missing} of {wanted} clients did not connect in {JOIN_SECONDS} s: start them all")
        return ndarrays_to_parameters(self.server.weights)

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[tuple[Any, FitIns]]:
        """Orders for the clients drawn for this round."""
        here = {self._name(proxy): proxy for proxy in client_manager.all().values()}
        drawn = self.server.draw(server_round - 1)
        if not drawn:  # Flower skips a round without clients, the account must not
            self.server.step(server_round - 1, [])
        order = {"round": server_round - 1, "clip": self.server.clip}
        return [(here[name], FitIns(ndarrays_to_parameters(self.server.weights), order)) for name in drawn]

    def _name(self, proxy: Any) -> str:
        answer = proxy.get_properties(GetPropertiesIns(config={}), timeout=ASK_SECONDS, group_id=None)
        return str(answer.properties["name"])

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[Any, dict[str, Any]]:
        """Finish the round; raises RuntimeError if a client failed, for its part would be missing unnoticed."""
        if failures:
            raise RuntimeError(f"{len(failures)} clients failed in round {server_round}: {failures[0]}")
        uploads = [
            Upload(
                str(result.metrics["name"]),
                parameters_to_ndarrays(result.parameters),
                result.num_examples,
                float(result.metrics["loss"]),
                bool(result.metrics["unclipped"]),
            )
            for _, result in results
        ]
        self.server.step(server_round - 1, uploads)
        return ndarrays_to_parameters(self.server.weights), {}

    def configure_evaluate(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
        """Nothing is evaluated at the clients."""
        return []

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
        """Nothing is evaluated at the clients."""
        return None, {}

    def evaluate(self, server_round: int, parameters: Any) -> None:
        """Nothing is evaluated at the server."""


def serve(server: Server, address: str) -> None:
    """Run all rounds with the clients that connect to an address such as "127.0.0.1:8080"; returns when done."""
    rounds = flwr.server.ServerConfig(num_rounds=server.config.rounds)
    flwr.server.start_server(server_address=address, config=rounds, strategy=FlowerStrategy(server))


def join(client: LocalClient, address: str) -> None:
    """Take part in the training of the server at an address until it is done."""
    flwr.client.start_client(server_address=address, client=FlowerClient(client).to_client(), insecure=True)


def fit_over_loopback(ranker: FedPJF, corpus: Corpus) -> FedPJF:
    """`ranker.fit(corpus)` with a process for every client, talking over loopback."""
    clients, address = ranker.local_clients(corpus), f"127.0.0.1:{_free_port()}"
    server, context = ranker.server(clients), multiprocessing.get_context("spawn")
    processes = [context.Process(target=join, args=(client, address), daemon=True) for client in clients.values()]
    for process in processes:
        process.start()
    try:
        serve(server, address)
    finally:
        for process in processes:
            process.join(timeout=10)
            process.terminate()
    return ranker.take(server).index(corpus)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
