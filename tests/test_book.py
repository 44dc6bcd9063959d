"""The book: its pages need no other host, their links lead somewhere, and they can be read by everybody."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

from classroom import book
from classroom.method import save_method
from confitlib.notebooks import find_notebook

ROOT = Path(__file__).parents[1]
SHOWN = ("00", "04", "05")  # executed for this test; the others stand in the book as they are committed
PAGES = [f"notebooks/{find_notebook(number).stem}.html" for number in SHOWN]
GRAVE = ("serious", "critical")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    executed = {path: book.executed_copy(path) for path in map(find_notebook, SHOWN)}
    return book.build_book(tmp_path_factory.mktemp("site") / "book", executed).parent


def anchors(page: BeautifulSoup) -> set[str]:
    return {
        element.get("id") or element.get("name")
        for element in page.find_all(lambda tag: tag.get("id") or tag.get("name"))
    }


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_every_link_and_image_of_the_book_leads_somewhere(site):
    pages = {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    known = {path: anchors(page) for path, page in pages.items()}
    followed, broken = 0, []
    for path, page in pages.items():
        for element in page.select("a[href], img[src], script[src], link[href]"):
            target = urlsplit(element.get("href") or element["src"])
            if target.scheme:
                loaded = element.name != "a" and target.scheme != "data"
                assert not loaded, f"{path.name} loads {target.geturl()}"
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            followed += 1
            if not file.is_file() or (
                target.fragment and file in known and unquote(target.fragment) not in known[file]
            ):
                broken.append(f"{path.relative_to(site)}: {target.geturl()}")
    assert followed > 100 and not broken, sorted(set(broken))


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("name", PAGES)
def test_pages_load_nothing_from_elsewhere_and_have_no_grave_fault(site, browser, name):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((site / name).as_uri(), wait_until="networkidle")
    assert said == []
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data"}, asked
    assert page.locator("img").evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 0)")
    faults = [fault for fault in Axe().run(page).response["violations"] if fault["impact"] in GRAVE]
    assert not faults, [(fault["id"], [node["html"][:200] for node in fault["nodes"]][:5]) for fault in faults]
    page.close()


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_no_page_is_wider_than_its_screen(site, browser):
    page, wide = browser.new_page(), []
    for path in [path for path in site.rglob("*.html") if "_static" not in path.parts]:
        page.goto(path.as_uri())
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            if not page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
                wide.append(f"{path.name}, {width} pixels")
    page.close()
    assert not wide


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_the_book_has_formulas_search_and_two_colour_schemes(site, browser):
    page = browser.new_page()
    page.goto((site / "notebooks/03_training.html").as_uri(), wait_until="networkidle")
    page.wait_for_selector("mjx-container svg", timeout=20_000)
    backgrounds = set()
    for scheme in ("light", "dark"):
        page.evaluate("scheme => { document.documentElement.dataset.theme = scheme; }", scheme)
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2
    page.goto(f"{(site / 'search.html').as_uri()}?q=suitability")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    page.close()


def test_a_widget_is_shown_as_it_first_stood_and_a_progress_bar_not_at_all():
    figure = {"output_type": "display_data", "data": {"image/png": "AAAA"}, "metadata": {}}
    states = {
        "box": {"state": {"children": ["IPY_MODEL_slider", "IPY_MODEL_area"]}},
        "slider": {"state": {"value": 3}},
        "area": {"state": {"outputs": [figure]}},
        "bar": {"state": {"value": 10}},
    }
    view = [
        nbformat.v4.new_output("display_data", {book.WIDGET: {"model_id": name}, "text/plain": name}) for name in states
    ]
    cell = nbformat.v4.new_code_cell("slider()", outputs=[view[0], view[3]])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {book.STATE: {"state": states}}})
    assert book.page_of(notebook).cells[0].outputs == [figure]


def test_only_a_standard_run_of_today_is_shown_and_none_is_made_twice(project, monkeypatch):
    from confitlib import notebooks

    path, made = notebooks.find_notebook("05"), []
    monkeypatch.setattr(book, "run_notebook", lambda path, profile: made.append(profile))
    assert book.executed_copy(path) is None and made == ["tiny"]
    copy = nbformat.read(path, as_version=4)
    copy.metadata["papermill"] = {"parameters": notebooks.profile_parameters("tiny", path), "exception": None}
    file = project / "build/notebooks/tiny/05_percentile.1.ipynb"
    file.parent.mkdir(parents=True)
    nbformat.write(copy, file)
    assert book.executed_copy(path) == file and made == ["tiny"]
    copy.metadata["papermill"]["parameters"]["rate"] = 0.9
    nbformat.write(copy, file)
    assert book.executed_copy(path) is None
    copy.metadata["papermill"]["parameters"] = notebooks.profile_parameters("tiny", path)
    copy.cells[1].source += "  # an older version"
    nbformat.write(copy, file)
    assert book.executed_copy(path) is None and made == ["tiny"] * 3


def test_the_drawing_of_the_method_is_what_its_code_draws(tmp_path):
    save_method(tmp_path / "method.svg")
    assert (tmp_path / "method.svg").read_bytes() == (ROOT / "figures/method.svg").read_bytes()
