"""The `confit` command as a user meets it: messages, exit statuses, quick help."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from miniature import PARAMETERS_CELL, RECORD_CELL, write_notebook
from typer.testing import CliRunner

from confitlib import cli, plots
from confitlib.records import record
from confitlib.util import read_entries

ROOT = Path(__file__).parents[1]
README = "# A\n<!-- results:begin -->\nold\n<!-- results:end -->\nrest\n"


def confit(*arguments: str):
    return CliRunner().invoke(cli.app, arguments)


def test_help_names_every_command_and_loads_nothing_heavy():
    code = """if True:
        import sys
        from confitlib.cli import app
        app(["--help"], standalone_mode=False)
        assert not {"torch", "pandas", "papermill", "matplotlib", "numpy"} & {*sys.modules}
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("doctor", "run", "sweep", "claims", "figures"))


@pytest.mark.parametrize(
    ("command", "text"), [("run", "Numbers such as 05"), ("sweep", "A sweep such as"), ("sweep", "confitlib[scale]")]
)
def test_help_says_what_arguments_mean(command, text):
    words = confit(command, "--help").output.replace("│", " ").split()
    assert text in " ".join(words)


@pytest.mark.slow
def test_run_takes_parameters_as_two_words_or_one(project):
    result = confit("run", "05", "--profile", "tiny", "-p", "seed", "3", "-p", "rate=1e-1")
    assert result.exit_code == 0, result.output
    (entry,) = read_entries(project / "build/tiny/records/runs.jsonl")
    assert (entry["seed"], entry["parameters"]["rate"]) == (3, 0.1)


@pytest.mark.slow
def test_run_goes_on_after_a_failure_and_fails_at_the_end(project):
    write_notebook(project / "notebooks/04_broken.ipynb", "1 / 0")
    result = confit("run", "all", "--profile", "tiny")
    assert result.exit_code == 1
    assert "04_broken.ipynb, cell 2: ZeroDivisionError" in result.output
    assert "1 of 2 notebooks failed: 04_broken.ipynb" in result.output
    assert len(read_entries(project / "build/tiny/records/runs.jsonl")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["run", "06"], "known: 05_percentile"), (["run", "05", "-p", "sed", "1", "--profile", "tiny"], "unknown sed"),
     (["run", "05", "--profile", "huge"], "known: tiny"), (["claims"], "claims.yaml"), (["figures"], "confit run"),
     (["sweep", "none.yaml"], "none.yaml")],
)  # fmt: skip
def test_mistakes_get_one_line_and_no_traceback(arguments, message, project):
    result = confit(*arguments)
    assert result.exit_code == 1 and message in result.output
    assert "Traceback" not in result.output


def test_outside_a_project_run_all_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = confit("run", "all")
    assert result.exit_code == 1 and f"no notebooks in {tmp_path / 'notebooks'}: run inside" in result.output


@pytest.mark.parametrize("error", [KeyError("no 'x' here"), ImportError("no ray")])
@pytest.mark.parametrize("arguments", [["claims"], ["llm", "stats", "x"]])
def test_errors_read_alike_in_every_command(arguments, error, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("confitlib.records.load_claims", fail)
    monkeypatch.setattr("confitlib.llm.client.load_prices", fail)
    result = confit(*arguments)
    assert result.exit_code == 1 and result.output == f"[FAIL] {error.args[0]}\n"


def test_paths_as_typed_start_at_the_working_directory_and_defaults_at_the_project(project, monkeypatch):
    (project / "claims.yaml").write_text("[]")
    (project / "notebooks/own.yaml").write_text("[]")
    monkeypatch.chdir(project / "notebooks")
    assert str(project / "claims.yaml") in confit("claims").output
    assert str(project / "notebooks/own.yaml") in confit("claims", "--file", "own.yaml").output
    monkeypatch.setattr("confitlib.notebooks.run_notebook", lambda path, values, folder, profile: folder)
    assert f"[OK] {project / 'notebooks/here'}" in confit("run", "05", "--folder", "here").output


@pytest.mark.slow
def test_a_sweep_runs_real_notebooks_and_then_has_nothing_to_do(project):
    (project / "sweeps/rates.yaml").write_text('{notebook: "05", profile: tiny, grid: {rate: [0.5]}, seeds: [6]}')
    for _ in range(2):
        result = confit("sweep", "sweeps/rates.yaml")
        assert result.exit_code == 0 and "1 of 1 runs done" in result.output, result.output
    (entry,) = read_entries(project / "records/rates.jsonl")
    assert entry["metrics"] == {"value": 3.0} and entry["sweep"] == "rates"
    assert not (project / "build/tiny").exists()


@pytest.mark.slow
def test_a_run_that_is_stopped_by_hand_says_what_is_not_done(project):
    begun = project / "begun"
    write_notebook(
        project / "notebooks/04_long.ipynb", f"open({str(begun)!r}, 'w').close(); import time; time.sleep(99)"
    )
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from confitlib.cli import app; app()"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, "run", "all", "--profile", "tiny"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    while not begun.exists():
        assert run.poll() is None, "it ended before the cell began"
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, message = run.communicate(timeout=60)
    assert run.returncode == 130 and "stopped by hand; not done: 04_long.ipynb, 05_" in message


STANDARD = {"profile": "tiny", "seed": 0, "rate": 0.25, "bands": [[0.0, 0.01]], "output": "build/tiny"}


def standard_run(folder: Path, value: float, **changes: object) -> None:
    run = record("05", {**STANDARD, **changes}, folder)
    run.log(value=value)
    run.save()


CLAIM = {
    "id": "value", "statement": "The value is one", "notebook": "05", "profile": "tiny", "metric": "value",
    "expected": 1.0, "tolerance": 0.2, "reason": "measured", "source": "kit",
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "status", "verdict"), [(1.1, 0, "[OK]"), (1.3, 0, "[OKish]"), (0.5, 1, "[FAIL]"), (None, 1, "[MISSING]")]
)
def test_claims_decide_the_exit_status(value, status, verdict, project):
    (project / "claims.yaml").write_text(json.dumps([CLAIM, {**CLAIM, "id": "other", "profile": "gpu"}]))
    if value is not None:
        standard_run(project, value)
    standard_run(project, 1.0, rate=0.9)  # not what the profile asks for: it must not count
    result = confit("claims", "--profile", "tiny")
    assert result.exit_code == status and f"{verdict} value: The value is one" in result.output, result.output
    assert "other" not in result.output


def test_a_profile_without_claims_does_not_pass(project):
    (project / "claims.yaml").write_text(json.dumps([CLAIM]))
    standard_run(project, 1.0)
    result = confit("claims", "--profile", "gpu")
    assert result.exit_code == 1 and "no claim of profile 'gpu'" in result.output


def test_claims_measure_expectation_and_tolerance_over_seeds(project):
    (project / "claims.yaml").write_text(json.dumps([CLAIM]))
    for seed, value in enumerate((0.9, 1.0, 1.1)):
        standard_run(project, value, seed=seed)
    result = confit("claims", "--profile", "tiny", "--measure")
    assert result.exit_code == 0 and "0.496" in result.output  # 4.303 * 0.1 * sqrt(1 + 1/3)
    standard_run(project, 1.1, seed=2, rate=0.9)
    result = confit("claims", "--profile", "tiny", "--measure")
    assert result.exit_code == 1 and "differ in more than the seed" in result.output


def test_figures_come_from_records_of_the_profile_alone(project):
    (project / "README.md").write_text(README)
    (project / "docs").mkdir()
    (project / "docs/results.md").write_text(README)
    import pandas as pd

    for rate, value in ((0.25, 0.5), (0.9, 0.7)):  # the second is not what the profile asks for
        run = record("05", {**STANDARD, "rate": rate}, project)
        run.log({"job ndcg@10.3-4%": 0.5, "job ndcg@10.no band": 0.4})
        table = dict.fromkeys(plots.LOOK["headline"]["columns"], value) | {"system": ["TF-IDF", "Siamese"]}
        run.log_table("results", pd.DataFrame(table))
        run.save()
    result = confit("figures", "--profile", "tiny")
    assert result.exit_code == 0 and "[OK] figures/05_percentile.png" in result.output, result.output
    assert (project / "figures/05_percentile.png").is_file() and (project / "figures/05_percentile.csv").is_file()
    short, whole = ((project / name).read_text() for name in ("README.md", "docs/results.md"))
    assert "| Siamese | 0.500 |" in whole and "Siamese" not in short
    for text in (short, whole):
        assert "| TF-IDF" in text and "| 0.500 |" in text and "old" not in text and text.endswith("rest\n")


def test_doctor_finds_this_installation_sound(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = confit("doctor")
    assert result.exit_code == 0, result.output
    assert all(line.startswith(("[OK]", "[NOTE] records/")) for line in result.output.splitlines())


def test_doctor_counts_records_that_other_code_may_have_made(project):
    standard_run(project, 1.0)
    lines = [{"results_version": {"mining": 0}, "dirty": True}, {"dirty": False}]
    (project / "records/seeds.jsonl").write_text("\n".join(map(json.dumps, lines)))
    output = confit("doctor").output
    assert "[OK] records/runs.jsonl: 1, 0 of unknown and 0 of another version of the results, 0" in output
    assert "[NOTE] records/seeds.jsonl: 2, 1 of unknown and 1 of another version of the results, 1" in output


def test_doctor_names_what_differs_from_the_lock(project):
    result = confit("doctor")
    assert result.exit_code == 1
    assert "the lock has 1.0: pip install numpy==1.0" in result.output


def test_doctor_notices_damaged_weights(project, monkeypatch, tmp_path):
    from importlib import metadata

    class Damaged:
        name = "model.safetensors"
        hash = metadata.FileHash("sha256=abc")

        def locate(self) -> Path:
            return tmp_path / "requirements.lock"

    monkeypatch.setattr(metadata, "files", lambda package: [Damaged()])
    assert "[FAIL] minilm weights are damaged" in confit("doctor").output


@pytest.mark.slow
def test_a_failed_sweep_fails(project):
    write_notebook(project / "notebooks/05_percentile.ipynb", "1 / 0", RECORD_CELL, parameters=PARAMETERS_CELL)
    (project / "sweeps/rates.yaml").write_text('{notebook: "05", profile: tiny, seeds: [6]}')
    result = confit("sweep", "sweeps/rates.yaml")
    assert result.exit_code == 1 and "ZeroDivisionError" in result.output and "0 of 1 runs done" in result.output
