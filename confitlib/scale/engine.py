"""Where independent pieces of work run: in this process, or on a Ray cluster that survives lost workers."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
RETRIES = 3
STARTS = 2
LOOPBACK = "127.0.0.1"
# jsonschema, which Ray imports in each of its processes, compiles a grammar on import if rfc3987-syntax is
# there (Jupyter brings it): three quarters of a process's start, and Ray gives up on a start that takes 15 s.
LIGHT = Path(__file__).parent / "light"
ONE_CORE = {"RAYON_NUM_THREADS": "1"}  # else the tokenizer of every worker would use all cores; Ray sees to the rest


class Engine(ABC):
    """Runs one function over many items, or one call, somewhere; a context manager that ends what it started."""

    @abstractmethod
    def map(self, function: Callable[[Item], Result], items: Iterable[Item], what: str = "tasks") -> list[Result]:
        """The results in the order of the items; the function must be importable and depend on its item alone."""

    @abstractmethod
    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The result of one call; safe to be used by several threads at once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end unless the engine started something."""
        return


class LocalEngine(Engine):
    """Everything in this process, one item after the other."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], what: str = "tasks") -> list[Result]:
        """See `Engine`."""
        return [function(item) for item in tqdm(list(items), desc=what, delay=1, leave=False)]

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """See `Engine`."""
        return function(*arguments)


class RayEngine(Engine):
    """Ray tasks, one core each. A task whose worker dies is run again elsewhere, at most `retries` times.

    gpus: cards of each task, which sees no other; with a fraction tasks share one, with 0 all see all.

    address: "local" starts a cluster of `workers` processes (default: one a core) on the loopback interface and
    ends it again; "auto" or `host:port` joins one that runs, whose machines see the same files under the same
    paths and have the same environment. Plain tasks rather than Ray Data: a shard in makes a file out, which
    is what retries, resuming and the order of rows rest on. Source of the retries: Ray documentation, "Task
    Fault Tolerance" (https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html).
    """

    def __init__(
        self, address: str = "local", workers: int | None = None, retries: int = RETRIES, gpus: float = 0
    ) -> None:
        self.address, self.workers, self.retries, self.gpus = address, workers, retries, gpus
        self._ray: Any = None

    def __enter__(self) -> Self:
        """Start or join the cluster; raises ImportError without Ray, ConnectionError where none can be had."""
        self._ray = _import_ray()
        if self._ray.is_initialized():
            raise ConnectionError("Ray runs in this process already: end that with ray.shutdown(), which this would do")
        if self.address == "local":
            self._start()
        else:
            try:
                self._ray.init(
                    address=self.address, runtime_env={"env_vars": ONE_CORE}, log_to_driver=False,
                    logging_level=logging.ERROR,
                )  # fmt: skip
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConnectionError(
                    f"no Ray cluster at {self.address!r} ({error}): start one with `ray start --head`, or use 'local'"
                ) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], what: str = "tasks") -> list[Result]:
        """See `Engine`."""
        remote = self._remote(function)
        waiting = [remote.remote(item) for item in items]
        return [self._ray.get(result) for result in tqdm(waiting, desc=f"{what} (Ray)", delay=1, leave=False)]

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """See `Engine`."""
        result: Result = self._ray.get(self._remote(function).remote(*arguments))
        return result

    def _remote(self, function: Callable[..., Any]) -> Any:
        if self._ray is None:
            raise RuntimeError("the engine is not running: use it as `with RayEngine() as engine`")
        return self._ray.remote(max_retries=self.retries, num_cpus=1, num_gpus=self.gpus)(function)

    def _start(self) -> None:
        path = os.pathsep.join([str(LIGHT), *filter(None, [os.environ.get("PYTHONPATH")])])
        for attempt in range(1, STARTS + 1):
            try:
                with _for_workers(ONE_CORE | {"PYTHONPATH": path}):
                    self._ray.init(
                        address="local", num_cpus=self.workers, _node_ip_address=LOOPBACK,
                        include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                    )  # fmt: skip
            except Exception as error:  # what Ray raises when one of its processes starts too slowly
                self._ray.shutdown()
                if attempt == STARTS:
                    raise ConnectionError(f"Ray could not start here: {error} Is the machine overloaded?") from error
            else:
                return


@contextmanager
def _for_workers(environment: Mapping[str, str]) -> Iterator[None]:
    """Set variables that Ray's processes inherit, and take them back."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("this needs Ray: pip install confitlib[scale]") from error
    return ray
