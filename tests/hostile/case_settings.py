"""YAML, profiles, sweeps and notebooks' parameters: what a typing mistake may leave in them."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from inputs import changed, write
from verdicts import Case

from confitlib import notebooks, util

CELL = (
    'profile: str = "laptop"\nseed: int = 0\nrate: float = 0.5\nbands: list = [[0.0, 0.01]]\nnames: list = ["a"]\n'
    "ks: list = [1]\n"
    'flag: bool = False\nlimit: int | None = None\noutput: str = "."\n'
)
PROFILE = "common:\n  seed: 7\n'05':\n  rate: 0.25\n  bands: [[0.0, 0.1]]\n"
SWEEP = 'notebook: "05"\nprofile: tiny\ngrid:\n  rate: [0.1, 0.2]\n  ks: [[1], [2, 3]]\nseeds: [0, 1]\n'


def project(folder: Path, cell: str = CELL, profile: str | bytes = PROFILE) -> Path:
    """A repository in miniature as the working directory."""
    cells = [
        {
            "cell_type": "code",
            "metadata": {"tags": ["parameters"]},
            "source": cell,
            "outputs": [],
            "execution_count": None,
        }
    ]
    write(
        folder / "notebooks/05_x.ipynb",
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}),
    )
    write(folder / "profiles/tiny.yaml", profile)
    return folder


def inside(folder: Path, call: Callable[[], Any]) -> Any:
    """A call with the project as the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return call()
    finally:
        os.chdir(before)


class Twice(yaml.SafeLoader):
    """The oracle: PyYAML, which says here whether an alias or a repeated key is in a text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Note aliases."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("alias")
        return super().compose_node(parent, index)


def plain_yaml(text: str) -> Any:
    """A text as PyYAML reads it; raises for aliases."""
    return yaml.load(text, Twice)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
DOCUMENTS = {
    "bomb": BOMB,
    "alias to itself": "a: &a [*a]\n",
    "deep list": "a: " + "[" * 20_000,
    "deep braces": "a: " + "{a: " * 5_000,
    "deep dashes": "- " * 5_000 + "1",
    "python object": "!!python/object/apply:os.system ['touch canary']\n",
    "python name": "a: !!python/name:os.system\n",
    "python module": "a: !!python/module:os\n",
    "object new": "!!python/object/new:subprocess.check_output [['touch', 'canary']]\n",
    "merge": "a: {<<: {b: 1}, <<: {b: 2}}\n",
    "two keys": "seed: 0\nseed: 1\n",
    "two keys below": "grid: {rate: [0.1], rate: [0.2]}\n",
    "list as key": "[1]: 2\n",
    "mapping as key": "{a: b}: 2\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "tab": "a:\n\t- 1\n",
    "list": "- 1\n",
    "text": "just text",
    "number": "5",
    "unknown tag": "a: !wrong 1\n",
    "date": "a: 2020-99-99\n",
    "binary": "a: !!binary '###'\n",
    "number of 10,000 digits": f"a: {'9' * 10_000}\n",
    "nul": "a: \0\n",
    "utf-16": "\ufeff\0a",
    "set": "!!set {a, b}\n",
    "timestamp": "2020-01-01: 1\n",
    "empty": "",
    "comment": "# nothing\n",
    "null": "~",
}


def documents() -> Iterator[Case]:
    """YAML that grows without end, runs something, repeats a key or is no YAML, given to everything that reads YAML."""
    from confitlib.records import load_claims

    readers: dict[str, Callable[[Path], Any]] = {
        "read_yaml": lambda path: util.read_yaml(path, dict),
        "plan_sweep": lambda path: inside(project(path.parent), lambda: notebooks.plan_sweep(path)),
        "profile": lambda path: inside(
            project(path.parent, profile=path.read_bytes()), lambda: notebooks.profile_parameters("tiny", "05")
        ),
        "claims": load_claims,
    }
    for (reader, call), (name, text) in itertools.product(readers.items(), DOCUMENTS.items()):
        empty = name in ("empty", "comment", "null") and reader != "plan_sweep"
        plain = reader == "read_yaml" and name in ("timestamp",)
        right: Callable[[Any], bool] | None = None
        if empty:
            right = lambda found: not found or set(found) <= {"profile"}  # noqa: E731
        elif plain:
            right = lambda found, text=text: found == yaml.safe_load(text)  # noqa: E731
        elif reader == "read_yaml" and name == "set":
            right = None
        yield Case(
            f"{reader}: {name}",
            lambda folder, call=call, text=text: inside(folder, lambda: call(write(folder / "file.yaml", text))),
            right,
            (("file.yaml", "tiny.yaml", "profile 'tiny'"),),
        )


def changed_yaml() -> Iterator[Case]:
    """Sweeps and profiles with a few bytes changed: read as PyYAML reads them, or refused."""
    for seed in range(120):
        raw = changed(SWEEP.encode(), seed)

        def sweep(folder: Path, raw: bytes = raw) -> Any:
            return inside(project(folder), lambda: notebooks.plan_sweep(write(folder / "sweep.yaml", raw)))

        def planned(runs: Any, raw: bytes = raw) -> bool:
            content = plain_yaml(raw.decode("utf-8-sig"))
            grid = {"seed": content.get("seeds", [0]), **(content.get("grid") or {})}
            wanted = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
            found = [{name: run.parameters[name] for name in grid} for run in runs]
            return sorted(map(repr, wanted)) == sorted(map(repr, found)) and content["notebook"] == "05"

        yield Case(
            f"sweep changed by seed {seed}", sweep, planned, (("sweep.yaml", "profile", "05_x.ipynb", "notebook"),)
        )
    for seed in range(60):
        raw = changed(PROFILE.encode(), seed)

        def profile(folder: Path, raw: bytes = raw) -> Any:
            def checked() -> Any:
                return notebooks.check_parameters("05", notebooks.profile_parameters("tiny", "05"))

            return inside(project(folder, profile=raw), checked)

        def as_written(found: Any, raw: bytes = raw) -> bool:
            content = plain_yaml(raw.decode("utf-8-sig")) or {}
            wanted = {"profile": "tiny", **(content.get("common") or {}), **(content.get("05") or {})}
            return found == wanted

        yield Case(
            f"profile changed by seed {seed}", profile, as_written, (("tiny.yaml", "profile 'tiny'", "05_x.ipynb"),)
        )


def sweeps() -> Iterator[Case]:
    """Sweeps of other shapes and of too many runs."""
    good = yaml.safe_load(SWEEP)
    values: list[Any] = [None, 5, "x", [], [5], {}, {"a": 1}, True, 0.5, ["05", "99"], [["05"]], "../x", float("nan")]
    for key, value in itertools.product(good, values):
        if (key, value) not in (("grid", None), ("grid", {}), ("seeds", [5])):
            yield Case(
                f"{key}: {value}",
                lambda folder, key=key, value=value: plan(folder, good | {key: value}),
                None,
                (("sweep.yaml", "notebook", "profile", "parameter"),),
            )
    for grid in (
        {"rate": [0.1] * 200, "ks": [[1]] * 200},
        {"seed": [1, 2]},
        {"rat": [1]},
        {"rate": ["0.1"]},
        {"rate": [[0.1]]},
        {"rate": 0.1},
        {"rate": []},
        {"ks": [1]},
        {"ks": [["a"]]},
        {"bands": [[["a", "b"]]]},
        {"names": [[1]]},
        {"flag": ["yes"]},
        {"flag": [1]},
        {"limit": ["x"]},
        {"limit": [1.5]},
    ):
        yield Case(
            f"grid {str(grid)[:40]}",
            lambda folder, grid=grid: plan(folder, good | {"grid": grid}),
            None,
            (("sweep.yaml", "parameter"),),
        )
    yield Case(
        "grid of seeds",
        lambda folder: plan(folder, {"notebook": "05", "profile": "tiny", "grid": {"seed": [3, 4]}}),
        lambda runs: [run.parameters["seed"] for run in runs] == [3, 4],
        None,
    )
    yield Case("unknown key", lambda folder: plan(folder, good | {"grids": {}}), None, ("grids",))


def plan(folder: Path, content: Any) -> Any:
    """The plan of a sweep in a project."""
    return inside(project(folder), lambda: notebooks.plan_sweep(write(folder / "sweep.yaml", yaml.safe_dump(content))))


FITTING = {
    "profile": ["x"],
    "seed": [0, 5],
    "rate": [1, 0.5],
    "bands": [[[0.1, 0.2]], [], [[1, 2]]],
    "names": [["b"], []],
    "ks": [[1, 2], []],
    "flag": [True, False],
    "limit": [None, 3],
    "output": ["x"],
}
ANY = [
    "3",
    1.5,
    2,
    None,
    [1],
    ["a"],
    [[0.1]],
    [["a"]],
    [None],
    True,
    {"a": 1},
    b"x",
    float("nan"),
    float("inf"),
    object(),
    (1,),
    {1},
]


def parameters() -> Iterator[Case]:
    """Parameters of every declared type, elements of lists included, are checked before anything runs."""
    for name, values in FITTING.items():
        for value in values:
            yield Case(
                f"{name}={value!r}",
                lambda folder, name=name, value=value: inside(
                    project(folder), lambda: notebooks.check_parameters("05", {name: value})
                ),
                lambda found, name=name, value=value: found == {name: value},
                None,
            )
        for value in ANY:
            scalar = {
                "seed": (int,),
                "rate": (int, float),
                "flag": (bool,),
                "limit": (int, type(None)),
                "profile": (str,),
                "output": (str,),
            }.get(name)
            fits = (
                scalar is not None
                and isinstance(value, scalar)
                and (isinstance(value, bool) == (name == "flag"))
                and value == value
                and abs(value if isinstance(value, float) else 0) < 1e300
            )
            fits |= (name, value) in (("names", ["a"]), ("ks", [1]), ("ks", (1,)), ("bands", [[0.1]]))
            if not fits:
                yield Case(
                    f"{name}={value!r}",
                    lambda folder, name=name, value=value: inside(
                        project(folder), lambda: notebooks.check_parameters("05", {name: value})
                    ),
                    None,
                    (name,),
                )
    for cell in (
        "seed: int = int('3')",
        "import os",
        "seed = 0; seed: int",
        "os.system('touch canary')",
        "seed: int =",
        "(",
        "f(x)",
        "seed: int = __import__('os').system('touch canary')",
        "a, b = 1, 2",
        "seed: int = 0\nseed: int = 1",
        "for x in y: pass",
    ):
        yield Case(
            f"cell {cell!r}",
            lambda folder, cell=cell: inside(
                project(folder, cell + "\n"), lambda: notebooks.declared_parameters(folder / "notebooks/05_x.ipynb")
            ),
            None,
            ("05_x.ipynb",),
        )
    for content in (
        "",
        "{}",
        "[]",
        '{"cells": 5}',
        '{"cells": [{}]}',
        '{"cells": [5]}',
        "[" * 100_000,
        '{"cells": [{"metadata": {"tags": 5}}]}',
        "\xff",
    ):
        yield Case(
            f"notebook {content[:30]!r}",
            lambda folder, content=content: inside(
                folder, lambda: notebooks.declared_parameters(write(folder / "05_x.ipynb", content.encode("latin-1")))
            ),
            None,
            ("05_x.ipynb",),
        )
    for name in ("99", "", "05.ipynb", "../05", None, 5, "all", "notebooks"):
        yield Case(
            f"notebook named {name!r}",
            lambda folder, name=name: inside(project(folder), lambda: notebooks.find_notebook(name)),
            None,
            ("notebook",),
        )
    for name in ("", "huge", "../tiny", "tiny.yaml", None, 5):
        yield Case(
            f"profile named {name!r}",
            lambda folder, name=name: inside(project(folder), lambda: notebooks.profile_parameters(name, "05")),
            None,
            ("profile",),
        )


GROUPS = {
    "settings: YAML": documents,
    "settings: bytes of sweeps and profiles": changed_yaml,
    "settings: sweeps": sweeps,
    "settings: parameters": parameters,
}
ISOLATED = {"settings: YAML"}
