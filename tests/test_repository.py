"""The repository keeps its promises: pins agree, notebooks are clean, documented commands exist."""

import ast
import doctest
import importlib.metadata
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import papermill
import pytest
import typer
import yaml
from accelerate.commands.launch import launch_command_parser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import confitlib
from confitlib import cli, notebooks, plots
from confitlib.cli import locked_versions
from confitlib.records import SECRET_VALUE, load_records

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DOCUMENTS = sorted(path for folder in (".", "docs", "binder") for path in (ROOT / folder).glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED_EXTRAS = ("book", "dev", "eda", "federated", "scale", "zh")
CUDA_ONLY = re.compile(r"nvidia|cuda|triton")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])(/(home|Users|root|work|tmp|mnt|media)/|[A-Z]:\\)")
HEADINGS = ["What you will learn", "Time and hardware", "Takeaways", "Exercises", "References"]
LONGEST_CELL = 25
USAGE_ERROR = typer.BadParameter.__base__  # what an unknown command or option raises


def requirements(extras: tuple[str, ...] = LOCKED_EXTRAS) -> list[Requirement]:
    listed = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return [Requirement(line) for line in listed]


def needed(requirement: Requirement) -> list[Requirement]:
    """What an installed package itself requires here."""
    listed = map(Requirement, importlib.metadata.requires(requirement.name) or [])
    chosen = [{"extra": extra} for extra in {"", *requirement.extras}]
    return [one for one in listed if one.marker is None or any(one.marker.evaluate(extra) for extra in chosen)]


def test_the_lock_pins_everything_that_an_installation_pulls_in():
    pins = {canonicalize_name(name): pin for name, pin in locked_versions(ROOT / "requirements.lock").items()}
    queue, seen = requirements(), set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if CUDA_ONLY.match(name) or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        assert name in pins, f"{name} is not locked: run `make lock`"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"the lock has {name} {pins[name]}"
        queue += needed(requirement)
    assert set(pins) == {name for name, _ in seen}, "the lock holds packages that nothing needs: run `make lock`"


def test_conda_installs_the_same_pins_and_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(line for line in environment["dependencies"] if str(line).startswith("python="))
    assert PROJECT["requires-python"] == f">={python.removeprefix('python=')}"
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.lock", "-e ."]}


def test_minimum_python_is_one_number():
    minimum = ".".join(map(str, cli.MINIMUM_PYTHON))
    assert PROJECT["requires-python"] == f">={minimum}"
    assert minimum.replace(".", ", ") in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("target", ["reproduce", "test", "test-fast", "lab", "book", "handout", "lock", "clean"])
def test_make_knows_its_targets(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_make_without_a_python_says_what_to_install():
    command = ["make", "-n", "-B", "PYTHON=", ".venv/installed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Python 3.11 or newer" in done.stderr


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o100 and script.read_text().rstrip().endswith("make test")


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert citation["preferred-citation"]["doi"] == "10.18653/v1/2025.findings-acl.661"


def test_every_profile_fits_the_notebooks(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in notebooks.all_notebooks():
        for profile in ("tiny", "laptop", "gpu", "paper"):
            values = notebooks.check_parameters(path, notebooks.profile_parameters(profile, path))
            assert values["profile"] == profile


def test_every_sweep_fits_its_notebooks(monkeypatch):
    monkeypatch.chdir(ROOT)
    if not NOTEBOOKS:
        pytest.skip("no notebook in this checkout")
    for path in (ROOT / "sweeps").glob("*.yaml"):
        runs = notebooks.plan_sweep(path)
        assert len({run.key for run in runs}) == len(runs) > 0, path.name


def cells(path: Path, kind: str) -> list[tuple[str, dict]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [("".join(cell["source"]), cell) for cell in content["cells"] if cell["cell_type"] == kind]


def prose(path: Path) -> str:
    return "\n\n".join(text for text, _ in cells(path, "markdown"))


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_notebooks_are_committed_clean(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == notebooks.KERNEL
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids), "a cell is there twice"
    for text, cell in cells(path, "code"):
        assert not cell["outputs"] and cell["execution_count"] is None, f"clear the outputs: {text[:60]}"
        assert sum(bool(line.strip()) for line in text.splitlines()) <= LONGEST_CELL, (
            f"over {LONGEST_CELL} lines: {text[:60]}"
        )


@every_notebook
def test_notebooks_hold_no_local_paths_and_no_secrets(path):
    text = path.read_text(encoding="utf-8")
    assert not ABSOLUTE_PATH.search(text), ABSOLUTE_PATH.search(text)
    assert not SECRET_VALUE.search(text)


@every_notebook
def test_parameters_are_typed_explained_and_seen_by_papermill(path):
    declared, seen = notebooks.declared_parameters(path), papermill.inspect_notebook(path)
    assert {"profile", "seed", "output"} <= set(declared) == set(seen)
    for name, entry in seen.items():
        assert entry["inferred_type_name"] not in (None, "None"), f"{name} has no type"
        assert entry["help"], f"{name} has no help comment"
    notebooks.check_parameters(path, {name: default for name, (_, default) in declared.items()})


EXERCISE = re.compile(r"^### Exercise (\d) · (★☆☆|★★☆|★★★) · (on paper|in code|implement it)$", re.MULTILINE)
PARTS = ["exercise", "answer", "check", "solution"]


def check_exercises(path: Path) -> None:
    """Exercises are numbered cells, each with an empty one for the answer, a check and a folded solution behind it."""
    listed = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [(tag, cell) for cell in listed for tag in cell["metadata"].get("tags", []) if tag in PARTS]
    numbers = [EXERCISE.search("".join(cell["source"])) for tag, cell in tagged if tag == "exercise"]
    assert all(numbers), "an exercise begins with `### Exercise N · ★☆☆ · on paper` (or in code, implement it)"
    assert [int(match[1]) for match in numbers if match] == list(range(1, len(numbers) + 1))
    assert 2 <= len(numbers) <= 5 and [tag for tag, _ in tagged] == PARTS * len(numbers)
    for tag, cell in tagged:
        lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
        assert tag != "answer" or all(line.startswith("#") for line in lines), "the cell of an answer is left empty"
        assert tag != "solution" or cell["metadata"]["jupyter"]["source_hidden"], "a solution is folded"
    outside = [cell for cell in listed if "solution" not in cell["metadata"].get("tags", [])]
    assert not any("<summary>" in "".join(cell["source"]) for cell in outside), "a solution stands outside its cell"


@every_notebook
def test_notebooks_follow_the_skeleton(path):
    text = prose(path)
    headings = re.findall(r"^(#+) (.+)$", text, flags=re.MULTILINE)
    assert [level for level, _ in headings].count("#") == 1 and headings[0][0] == "#", "one title, at the top"
    assert headings[0][1].startswith(notebooks.number_of(path)), "the title begins with the notebook's number"
    sections = [name for level, name in headings if level == "##"]
    assert [name for name in sections if name in HEADINGS] == HEADINGS
    numbered = [int(match[1]) for name in sections if (match := re.match(r"(\d+)\.? ", name))]
    assert numbered == list(range(1, len(numbered) + 1)) and len(numbered) >= 2, "sections are numbered from 1"
    check_exercises(path)
    assert any("record(" in code for code, _ in cells(path, "code")), "no record cell"


@every_notebook
def test_what_a_control_draws_with_keeps_its_meaning(path):
    """A control draws long after its cell has run, so no later cell may give its names another value."""
    trees = [ast.parse(text) for text, _ in cells(path, "code")]
    controlled = {match for text, _ in cells(path, "code") for match in re.findall(r"plots\.control\(\s*(\w+)", text)}
    for place, tree in enumerate(trees):
        for function in (one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in controlled):
            words = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
            own = {node.id for node in words if isinstance(node.ctx, ast.Store)} | {
                one.arg for one in function.args.args
            }
            later = {name for one in trees[place + 1 :] for name in bound(one)}
            assert not ({node.id for node in words} - own) & later


def bound(tree: ast.Module) -> set[str]:
    """The names that a cell gives a value to, outside comprehensions and functions."""
    inner = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    hidden = {id(node) for outer in ast.walk(tree) if isinstance(outer, inner) for node in ast.walk(outer)}
    stored = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return {node.id for node in stored if id(node) not in hidden}


def documented_commands() -> list[tuple[str, str]]:
    """Every line of the documents' shell blocks, with the document it stands in."""
    fenced = re.compile(r"```(?:sh|bash|console)\n(.*?)```", flags=re.DOTALL)
    blocks = [(document.name, block) for document in DOCUMENTS for block in fenced.findall(document.read_text())]
    joined = [(name, line) for name, block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [(name, line.strip()) for name, line in joined if line.strip() and not line.strip().startswith("#")]


def check_confit(words: list[str]) -> None:
    """Parse a confit command without running it; raises on unknown commands, options and values."""
    group = typer.main.get_command(cli.app)
    if words != ["--help"]:
        name, command, rest = group.resolve_command(group.make_context("confit", list(words)), words)
        if rest != ["--help"]:
            command.make_context(name, rest)


def check_command(line: str) -> None:
    words = [word.removeprefix(".venv/bin/") for word in shlex.split(line, comments=True)]
    if words[0] == "confit":
        check_confit(words[1:])
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[:2] == ["accelerate", "launch"]:
        assert Path(launch_command_parser().parse_args(words[2:]).config_file).is_file()
    elif words[:2] == ["python", "-m"]:
        script = ROOT / f"{words[2].replace('.', '/')}.py"  # python -m finds modules of the working directory
        assert script.is_file() or find_spec(words[2]), f"no module {words[2]}"
    elif words[0] in ("python", "bash") or words[0].startswith("./"):
        assert (ROOT / words[-1]).exists() or (ROOT / words[1]).exists(), f"no such file: {line}"
    elif words[0] == "pytest":
        assert all((ROOT / word.split("::")[0]).exists() for word in words[1:] if word.startswith("tests"))
    else:
        known = ("git", "cd", "pip", "conda", "ruff", "mypy", "export")
        assert words[0] in known, f"nothing checks this command: {line}"


@pytest.mark.parametrize(("document", "line"), documented_commands())
def test_documented_commands_exist(document, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_command(line)


@pytest.mark.parametrize(
    "line", ["confit runn 05", "confit run 05 --profil tiny", "make everything", "python -m no_such"]
)
def test_the_check_of_documented_commands_can_fail(line):
    with pytest.raises((AssertionError, USAGE_ERROR, subprocess.CalledProcessError)):
        check_command(line)


@pytest.mark.parametrize(
    "line", ["confit --help", "confit run 05 --profile tiny -p seed 1", "make test", "confit doctor"]
)
def test_the_check_of_documented_commands_accepts_real_ones(line):
    check_command(line)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert [line.split(" {")[0] for line in capsys.readouterr().out.splitlines()] == ["BM25", "ConFit v2"]


@pytest.mark.slow
def test_the_bias_of_the_assignment_is_in_what_it_trains():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/teaching.md").read_text(), flags=re.DOTALL)
    space: dict = {}
    exec(compile(code, "teaching.md", "exec"), space)
    changed = space["labels"]["label"] != space["corpus"].labels["label"]
    assert 0 < changed.sum() < len(changed) / 4
    assert space["unfair"].result.encoder.weight_hash() != space["fair"].result.encoder.weight_hash()


@pytest.mark.slow
@pytest.mark.parametrize("name", getattr(confitlib, "__all__", []))
def test_the_front_door_shows_calls_that_run(name):
    examples = [test for test in doctest.DocTestFinder().find(getattr(confitlib, name), name) if test.examples]
    assert examples, f"the docstring of confitlib.{name} shows no call"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples:
        output = io.StringIO()
        assert runner.run(test, out=output.write).failed == 0, output.getvalue()


def test_the_library_is_thin(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.size import library

    _, whole = library()
    # The library without its checks of hostile input, kept activations and controls had 7,944 lines; the aim is 8,000.
    assert whole["lines"] <= 8_160 and whole["modules"] <= 70 and whole["small"] == 0, whole
    # The aim is a median of 6, which the library misses by one: raise this bound once it is met.
    assert 5 <= whole["median"] <= 10 and whole["p90"] <= 25 and whole["max"] <= 60, whole


def text_of(path: Path) -> str:
    """The prose of a document or a notebook, without code."""
    text = prose(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors_of(path: Path) -> set[str]:
    """The anchors that code-hosting sites, JupyterLab and the book give to the headings of a page."""
    headings = re.findall(
        r"^#+ (.+)$", prose(path) if path.suffix == ".ipynb" else path.read_text(), flags=re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    targets = re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", text_of(path))
    targets += re.findall(r'(?:href|src)="(?!https?://|mailto:)([^"]+)"', text_of(path))
    broken = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        named = not anchor or anchor.lower() in anchors_of(file) if file.is_file() else False
        broken += [] if named else [target]
    return broken


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_exist(path):
    assert broken_links(path) == []


@pytest.mark.parametrize("name", ["README.md", "docs/teaching.md"])
def test_the_reading_order_names_every_notebook(name):
    order = re.findall(r"^\| \[.+?\]\(\S*?notebooks/(\w+)\.ipynb\)", (ROOT / name).read_text(), flags=re.MULTILINE)
    assert sorted(order) == [path.stem for path in NOTEBOOKS]


def test_the_check_of_links_can_fail(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One thing\n[a](page.md#one-thing) [b](#one-thing) [c](page.md#two) [d](none.md) `[e](none.md)`\n"
    )
    assert broken_links(page) == ["page.md#two", "none.md"]


def test_the_glossary_names_the_notebook_that_has_the_word():
    entries = re.findall(
        r"^## (.+?)\n\n(.+?)(?=\n\n|\Z)", (ROOT / "docs/glossary.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    assert 35 <= len(entries) <= 60 and [term.lower() for term, _ in entries] == sorted(
        term.lower() for term, _ in entries
    )
    for term, entry in entries:
        path = ROOT / "notebooks" / re.search(r"\(\.\./notebooks/(\S+)\)", entry)[1]
        word, text = re.split(r"[, ]", term)[0].lower().rstrip("s").removesuffix("ility"), prose(path).lower()
        assert word in text, f"{path.name} has no {term!r}"


def test_the_workflows_fit_their_schema_and_pin_what_they_use():
    files = sorted(map(str, (ROOT / ".github/workflows").glob("*.yml")))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and len(files) == 2, done.stdout
    targets = re.findall(r"^([a-z-]+)(?: [a-z-]+)*:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for text in (Path(file).read_text() for file in files):
        assert re.findall(r"uses: (.+)", text) == re.findall(
            r"uses: (\S+@[0-9a-f]{40}  # v[\d.]+)$", text, flags=re.MULTILINE
        )
        assert set(re.findall(r"run: make (\S+)", text)) <= set(targets)


def test_the_schema_of_workflows_refuses_a_wrong_one(tmp_path):
    (tmp_path / "wrong.yml").write_text("on: push\njobs: {one: {steps: [{run: make test}]}}\n")  # it runs on nothing
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", "wrong.yml"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_binder_installs_the_locked_versions_and_no_development_tools():
    script = (ROOT / "binder/postBuild").read_text()
    assert (ROOT / "binder/runtime.txt").read_text().strip() == f"python-{'.'.join(map(str, cli.MINIMUM_PYTHON))}"
    assert "--constraint requirements.lock" in script and "--editable ." in script and "[" not in script
    subprocess.run(["bash", "-n", ROOT / "binder/postBuild"], check=True)
    queue, seen = [Requirement(line) for line in PROJECT["dependencies"]], set()
    while queue:
        requirement = queue.pop()
        if (requirement.name, frozenset(requirement.extras)) not in seen and not CUDA_ONLY.match(requirement.name):
            seen.add((requirement.name, frozenset(requirement.extras)))
            queue += needed(requirement)
    packages = len({canonicalize_name(name) for name, _ in seen})
    assert f"{packages} packages" in (ROOT / "binder/README.md").read_text(), f"it installs {packages}"


def test_the_results_in_the_documents_are_those_of_the_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    standard = notebooks.standard_records(load_records(ROOT / "records"), "laptop")
    for name, headline in (("README.md", True), ("docs/results.md", False)):
        shown = (ROOT / name).read_text().split(plots.BEGIN)[1].split(plots.END)[0].strip()
        assert shown == plots.results_markdown(standard, headline), f"{name}: run `confit figures`"
        assert not headline or shown.count("| ") > 60, "a system of the headline has no results"


def handout(folder: Path) -> list[Path]:
    """The notebooks without solutions, as `make handout` writes them."""
    lines = (ROOT / "Makefile").read_text().replace("\\\n", " ").splitlines()
    (command,) = [line for line in lines if "nbconvert" in line]
    words = command.replace("$(BIN)/jupyter", f"{sys.executable} -m jupyter").replace("build/handout", str(folder))
    subprocess.run(words, shell=True, cwd=ROOT, check=True)
    return sorted(folder.glob("*.ipynb"))


def test_handouts_have_no_solution_and_do_not_need_one(tmp_path):
    assert [path.name for path in handout(tmp_path)] == [path.name for path in NOTEBOOKS]
    for path in NOTEBOOKS:
        whole = json.loads(path.read_text())["cells"]
        left = json.loads((tmp_path / path.name).read_text())["cells"]
        solutions = [cell for cell in whole if "solution" in cell["metadata"].get("tags", [])]
        assert [cell["id"] for cell in left] == [cell["id"] for cell in whole if cell not in solutions]
        only = assigned(solutions) - assigned(left)
        used = {node.id for node in nodes(left) if isinstance(node, ast.Name)}
        assert not only & used, f"{path.name}: a cell needs what only a solution defines: {only & used}"
        record = left[next(place for place, cell in enumerate(left) if "## Record" in "".join(cell["source"])) :]
        read = {node.id for node in nodes(record) if isinstance(node, ast.Name)} - assigned(record)
        changed = assigned(solutions) & read
        assert not changed, f"{path.name}: a solution changes what the record is made of: {changed}"


def nodes(some: list[dict]) -> list[ast.AST]:
    """The syntax of code cells."""
    code = ["".join(cell["source"]) for cell in some if cell["cell_type"] == "code"]
    return [node for text in code for node in ast.walk(ast.parse(text))]


def assigned(some: list[dict]) -> set[str]:
    """The names that code cells give a value to, parameters of functions among them."""
    stored = {node.id for node in nodes(some) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    functions = {node.name for node in nodes(some) if isinstance(node, ast.FunctionDef)}
    return stored | functions | {node.arg for node in nodes(some) if isinstance(node, ast.arg)}
