"""A session in JupyterLab: it begins with notebook 00, shows what it computes, and leaves the checkout as it was."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from classroom.lab import copy_notebooks, lab_command, lab_environment
from confitlib.util import read_entries

ROOT = Path(__file__).parents[1]
PATIENCE = 240  # seconds for a notebook with the tiny profile on a busy machine

# What a reader does by hand: turn the line that switches the profile on, and run all cells.
RUN_ALL = """async () => {
    const { content, context, sessionContext } = jupyterapp.shell.currentWidget;
    await context.ready;
    await sessionContext.ready;
    for (const { model } of content.widgets) {
        const text = model.sharedModel.getSource();
        if (text.startsWith('# notebooks.use("tiny"')) model.sharedModel.setSource(text.replace('# ', ''));
    }
    await jupyterapp.commands.execute('notebook:run-all-cells');
}"""
# Bring the control of notebook 04 onto the screen.
SHOW_CONTROL = """async () => {
    const { content } = jupyterapp.shell.currentWidget;
    const isControl = ({ model }) => model.sharedModel.getSource().startsWith('plots.control(');
    await content.scrollToItem(content.widgets.findIndex(isControl), 'center');
}"""
# Code cells that were run, and those that failed.
STATE = """() => {
    const cells = jupyterapp.shell.currentWidget.content.widgets.map(({ model }) => model.toJSON())
        .filter(({ cell_type, source }) => cell_type === 'code' && source.length);
    return {
        done: cells.every(({ execution_count }) => execution_count !== null),
        failed: cells.flatMap(({ outputs }) => outputs).filter(({ output_type }) => output_type === 'error'),
    };
}"""


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=student", "-c", "user.email=student@example.org"]
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A commit of the working tree as it is, in a repository of its own."""
    folder = tmp_path_factory.mktemp("checkout") / "confitlib"
    for name in filter(None, git(ROOT, "ls-files", "-z", "-co", "--exclude-standard").split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "as it is")
    return folder


@pytest.fixture(scope="module")
def lab(checkout, tmp_path_factory):
    """The address of the JupyterLab that `make lab` starts there, for a reader with no settings, saved every 3 s."""
    home = tmp_path_factory.mktemp("home")
    settings = home / ".jupyter/lab/user-settings/@jupyterlab/docmanager-extension/plugin.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"autosaveInterval": 3}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--no-browser",
        f"--ServerApp.port={port}",
        "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=1",
    ]
    environment = {**lab_environment(checkout), "HOME": str(home), "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "classroom.lab", *options]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/api", timeout=5).close()
                    break
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def run_all(page, name: str) -> None:
    """Open a copy and run it with the tiny profile; fails if one of its cells does."""
    path = f"work/{name}"
    page.evaluate("async path => { await jupyterapp.commands.execute('docmanager:open', { path }); }", path)
    page.wait_for_function("path => jupyterapp.shell.currentWidget?.context?.path === path", arg=path, timeout=60_000)
    page.evaluate(RUN_ALL)
    page.wait_for_function(f"() => ({STATE})().done", timeout=1000 * PATIENCE, polling=500)
    assert page.evaluate(STATE)["failed"] == []


def move_the_band(page) -> None:
    """Move the slider of notebook 04 from 3-4 to 3-7 % and read the false-negative rate of both bands."""
    page.evaluate(SHOW_CONTROL)
    cell = page.locator(".jp-CodeCell", has=page.locator(".noUi-handle-upper"))
    table, handle = cell.locator("table").first, cell.locator(".noUi-handle-upper")
    expect(table).to_contain_text("3 to 4 %", timeout=30_000)
    before = rate(table.text_content())
    handle.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    expect(cell.locator(".widget-readout").first).to_have_text("3.00 – 7.00")
    expect(table).to_contain_text("3 to 7 %", timeout=60_000)
    assert 0 < rate(table.text_content()) < before, "further down fewer negatives are false"


def rate(text: str) -> float:
    """The first percentage with a decimal in a text."""
    return float(re.search(r"(\d+\.\d)%", text)[1])


def saved_outputs(path: Path) -> int:
    return sum(len(cell.get("outputs", [])) for cell in json.loads(path.read_text())["cells"])


@pytest.mark.xdist_group("browser")
def test_a_session_in_lab_leaves_the_checkout_clean(browser, lab, checkout):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(lab)
    page.wait_for_selector(".jp-NotebookPanel", timeout=60_000)
    assert page.url.endswith("/lab/tree/work/00_start_here.ipynb")
    for number, name in (("00", "00_start_here.ipynb"), ("04", "04_mining.ipynb")):
        run_all(page, name)
        if number == "04":
            move_the_band(page)
        for _ in range(60):  # until Lab has saved the copy by itself
            if saved_outputs(checkout / "work" / name):
                break
            time.sleep(0.5)
        assert saved_outputs(checkout / "work" / name) > 5
        assert page.locator(".jp-Dialog, .Toastify__toast").count() == 0
        assert read_entries(checkout / "build/interactive/records/runs.jsonl")[-1]["notebook"] == number
    page.close()
    assert git(checkout, "status", "--porcelain") == ""
    assert not (checkout / "records/runs.jsonl").exists(), "a run in Lab wrote to the repository's records"
    entries = read_entries(checkout / "build/interactive/records/runs.jsonl")
    assert [entry["profile"] for entry in entries] == ["tiny", "tiny"]


def test_a_copy_that_was_edited_stays_and_a_changed_original_is_named(project):
    original, copy = project / "notebooks/05_percentile.ipynb", project / "work/05_percentile.ipynb"
    assert copy_notebooks(project / "work") == [] and copy.read_bytes() == original.read_bytes()
    original.write_text(original.read_text() + "\n")  # a new version, and nothing edited
    assert copy_notebooks(project / "work") == [] and copy.read_bytes() == original.read_bytes()
    copy.write_text("mine")
    assert copy_notebooks(project / "work") == [] and copy.read_text() == "mine"
    original.write_text(original.read_text() + "\n")
    (notice,) = copy_notebooks(project / "work")
    assert "05_percentile.ipynb has changed" in notice and copy.read_text() == "mine"


def test_lab_finds_the_command_of_this_environment_and_begins_with_00():
    environment = lab_environment(ROOT)
    found = shutil.which("confit", path=environment["PATH"])
    assert found is not None and Path(found).parent == Path(sys.executable).parent
    assert "--LabApp.default_url=/lab/tree/work/00_start_here.ipynb" in lab_command(ROOT, [])
    settings = Path(environment["JUPYTER_CONFIG_PATH"].split(":")[0]) / "labconfig/page_config.json"
    assert json.loads(settings.read_text())["disabledExtensions"]["@jupyterlab/apputils-extension:announcements"]
