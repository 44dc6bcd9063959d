"""One verdict on one hostile case, and the suite's table.

A case is a call, made in an empty folder of its own, and what must come of it. Its verdict is one of

- right: the call returned, and an independent oracle says that the result is what the input means;
- clear: the library refused the input itself. The error was raised by a `raise` statement of confitlib, is one of the
  kinds that a caller expects, and its message names everything that the case asks for (file, row or parameter) and
  says what to do or what would be allowed;
- bad: any other error: raised inside a library, or one that does not name the place or the remedy;
- silent: the call returned where it had to refuse, or returned something that the oracle denies;
- executed: the input ran a command; dead: the process ended, or the call took longer than `PATIENCE` seconds.

Cases that may end or hang a process run in a child (`isolated`), one for each group; it is started again behind a
case that killed it.
"""

from __future__ import annotations

import dis
import faulthandler
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PROPERTY = "hostile"  # under which a test reports its counts
VERDICTS = ("right", "clear", "bad", "silent", "executed", "dead")
PATIENCE = 30  # seconds of one case, which on a busy machine may be slow
MEMORY = 6 * 2**30  # bytes of a child
CANARY = "canary"  # a file that hostile input tries to write
LIBRARY = str(Path(__file__).parents[2] / "confitlib")
# What a caller may expect: NotebookError is a RuntimeError, divergence a FloatingPointError.
EXPECTED = (ValueError, TypeError, LookupError, OSError, ImportError, RuntimeError, FloatingPointError)
REMEDY = re.compile(
    r"\b(use|give|pass|choose|check|must|expected?|provide|write|repair|remove|restore|save|rename|correct|keep|needs?|"
    r"cannot|fill|drop|encode|known|lower|mend|make|name|quote|supply|add|accept|fetch|download|declare|split by|set|"
    r"index by|takes|holds|has|have|at least|between|connect|run|map|open|evaluate|draw|leave|wants?|mark)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Case:
    """What to do and what must come of it.

    `call` receives an empty folder. `right` judges what it returned; None: it must refuse. `names`: what the message of
    a refusal must hold, each a string or alternatives in a tuple; None: it must not refuse.
    """

    name: str
    call: Callable[[Path], Any]
    right: Callable[[Any], bool] | None = None
    names: tuple[str | tuple[str, ...], ...] | None = ()


@dataclass(frozen=True)
class Outcome:
    """The verdict on a case, and what was seen."""

    case: str
    verdict: str
    seen: str


class Late(BaseException):
    """A case took longer than it may."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise Late in the main thread after so many seconds."""

    def ring(*_: Any) -> None:
        raise Late(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(case: Case, folder: Path) -> Outcome:
    """Run a case and judge it."""
    try:
        with limit(PATIENCE), warnings.catch_warnings(action="ignore"):
            result = case.call(folder)
            good = case.right is not None and bool(case.right(result))
        verdict, seen = "right" if good else "silent", repr(result)[:300]
    except (Late, MemoryError) as error:
        verdict, seen = "dead", f"{type(error).__name__}: {error}"
    except SystemExit as error:
        verdict, seen = "bad", f"SystemExit: {error}"
    except Exception as error:  # whatever it is, it is the finding
        verdict, seen = judge_error(case, error), f"{type(error).__name__}: {error}"[:600]
    if any(folder.rglob(CANARY)):
        verdict, seen = "executed", f"a command ran; {seen}"
    return Outcome(case.name, verdict, seen)


def judge_error(case: Case, error: Exception) -> str:
    """Whether an error is clear: see the module's docstring."""
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    named = case.names is not None and all(
        any(word in message for word in ([one] if isinstance(one, str) else one)) for one in case.names
    )
    ours = isinstance(error, EXPECTED) and raised_by_us(error)
    return "clear" if named and ours and REMEDY.search(message) else "bad"


def raised_by_us(error: Exception) -> bool:
    """Whether a `raise` statement of confitlib raised an error, and not something that the library called."""
    frames = list(traceback.walk_tb(error.__traceback__))
    frame = frames[-1][0]
    place = frame.f_code.co_code[error_place(error)]
    return frame.f_code.co_filename.startswith(LIBRARY) and dis.opname[place] in ("RAISE_VARARGS", "RERAISE")


def error_place(error: Exception) -> int:
    """The place of the instruction that raised, in the code of the innermost frame."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step.tb_lasti if step is not None else 0


def run(cases: Iterable[Case]) -> list[Outcome]:
    """Judge cases one by one, each in a folder of its own."""
    outcomes = []
    for case in cases:
        folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        try:
            outcomes.append(judge(case, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def isolated(module: str, group: str, seconds: float = 120) -> list[Outcome]:
    """Judge the cases of a group in a child process; behind a case that ends or hangs it the next child goes on."""
    names = [case.name for case in import_module(module).GROUPS[group]()]
    outcomes: list[Outcome] = []
    while len(outcomes) < len(names):
        command = [sys.executable, __file__, module, group, str(len(outcomes))]
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds)
            output, why = done.stdout, f"exit status {done.returncode}: {done.stderr[-200:].decode(errors='replace')}"
        except subprocess.TimeoutExpired as error:
            output, why = error.stdout or b"", f"no end after {seconds} s"
        outcomes += [Outcome(**json.loads(line)) for line in output.decode().splitlines() if line.endswith("}")]
        if len(outcomes) < len(names):
            outcomes.append(Outcome(names[len(outcomes)], "dead", why))
    return outcomes


def count(outcomes: Iterable[Outcome]) -> Counter[str]:
    """How many cases got each verdict."""
    return Counter(outcome.verdict for outcome in outcomes)


def table(counts: dict[str, Counter[str]]) -> list[str]:
    """Lines of the suite's table: kind of input x verdict."""
    rows = {**counts, "all": sum(counts.values(), Counter())}
    head = f"{'kind of input':42}" + "".join(f"{name:>10}" for name in ("cases", *VERDICTS))
    lines = [
        f"{kind:42}{row.total():10,}" + "".join(f"{row[name]:10,}" for name in VERDICTS) for kind, row in rows.items()
    ]
    return [head, *lines]


def main() -> None:
    """The child of `isolated`: judge the cases from a place on, one JSON line each."""
    module, group, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number, case in enumerate(import_module(module).GROUPS[group]()):
        if number >= first:
            faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)  # ends a call that no signal interrupts
            for outcome in run([case]):
                print(json.dumps(vars(outcome)), flush=True)


if __name__ == "__main__":
    main()
