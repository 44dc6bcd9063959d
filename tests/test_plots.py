"""Figures: one style, labels enforced, stable bytes, data beside them, redrawn from records."""

import itertools

import ipywidgets
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from confitlib import plots
from confitlib.evaluation import summarise_runs
from confitlib.records import load_records, record

DATA = pd.DataFrame({"x": [1, 2], "mean": [0.2, 0.4], "low": [0.1, 0.3], "high": [0.3, 0.5]})


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def labelled_figure() -> plt.Figure:
    fig, axes = plt.subplots()
    plots.line_with_band(axes, DATA.assign(side="resumes"), "x", hue="side")
    axes.set(xlabel="size (documents)", ylabel="recall@100")
    return fig


def test_a_figure_is_saved_with_its_data_and_equal_bytes_every_time(tmp_path):
    for folder in ("a", "b"):
        plots.save(labelled_figure(), "05_x", DATA, tmp_path / folder)
    first, second = ((tmp_path / folder / "figures/05_x.png").read_bytes() for folder in ("a", "b"))
    assert first == second and b"matplotlib" not in first
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a/figures/05_x.csv"), DATA)


@pytest.mark.parametrize("labels", [{}, {"xlabel": "size"}, {"ylabel": "recall"}, {"xlabel": " ", "ylabel": "recall"}])
def test_axes_without_labels_are_refused(labels, tmp_path):
    fig, panels = plt.subplots(1, 2)
    panels[0].set(xlabel="size", ylabel="recall")
    panels[1].set(**labels)
    with pytest.raises(ValueError, match="panel 1"):
        plots.save(fig, "x", DATA, tmp_path)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("side", ["x", "y"])
def test_an_axis_along_a_ranking_says_where_its_top_is(side):
    _, axes = plt.subplots()
    axes.plot([0.25, 50], [0.25, 50])
    axis = {"x": axes.xaxis, "y": axes.yaxis}[side]
    plots.share_axis(axis)
    assert [text.get_text() for text in axis.get_ticklabels()] == ["0.5", "1", "2", "3", "4", "5", "10", "20", "50"]
    assert axis.get_scale() == "log" and axis.get_label_text() == "share of the ranking, best first (%)"
    assert not axis.get_minor_locator()()


def test_a_control_shows_a_first_frame_and_replaces_it_when_a_widget_moves(monkeypatch):
    shown, updated = [], []

    class Place:
        def update(self, frame):
            updated.append(frame)

    def display(*frames, display_id=False):
        shown.extend(frames)
        return Place()

    def draw(size):
        fig, axes = plt.subplots()
        axes.set_title(f"size {size}")
        return [fig, f"table of {size}"]

    monkeypatch.setattr(plots, "display", display)
    slider = ipywidgets.IntSlider(2, min=1, max=5)
    plots.control(draw, size=slider)
    assert shown[0] is slider and shown[1].axes[0].get_title(loc="left") == "size 2" and shown[2] == "table of 2"
    assert not updated and not plt.get_fignums(), "an open figure would be shown twice"
    slider.value = 4
    assert updated[0].axes[0].get_title(loc="left") == "size 4" and updated[1:] == ["table of 4"]


def test_names_of_near_points_do_not_overlap():
    _, axes = plt.subplots()
    x, y = [0.1, 0.101, 0.102, 0.9], [0.5, 0.501, 0.499, 0.1]
    axes.scatter(x, y)
    plots.label_points(axes, x, y, ["positive_aware", "band_aware", "chosen_band", "random"])
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 4 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_shared_axes_need_their_label_once_and_colour_bars_none(tmp_path):
    fig, panels = plt.subplots(2, 2, sharex=True, sharey=True)
    panels[1, 0].set(xlabel="size", ylabel="recall")
    fig.colorbar(panels[0, 0].imshow([[0, 1]]), ax=panels)
    plots.save(fig, "x", DATA, tmp_path)
    assert (tmp_path / "figures/x.png").is_file()


def test_summaries_are_students_intervals():
    values = np.random.default_rng(0).normal(size=5)
    data = pd.DataFrame({"band": ["a"] * 5 + ["b"], "value": [*values, 1.0]})
    table = summarise_runs(data, ["band"]).set_index("band")
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert table.loc["a", ["mean", "low", "high"]].tolist() == pytest.approx([values.mean(), low, high])
    assert table.loc["b", "mean"] == 1.0 and np.isnan(table.loc["b", "low"])


def test_bars_keep_their_order_from_the_top_and_carry_whiskers():
    table = pd.DataFrame({"system": ["BM25", "dense"], "mean": [0.2, 0.4], "low": [0.1, 0.35], "high": [0.4, 0.5]})
    _, axes = plt.subplots()
    plots.bar_with_interval(axes, table, "system")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["BM25", "dense"] and axes.yaxis_inverted()
    (whiskers,) = (container for container in axes.containers if hasattr(container, "has_xerr"))
    segments = whiskers.lines[2][0].get_segments()
    assert [[point[0] for point in segment] for segment in segments] == [[0.1, 0.4], pytest.approx([0.35, 0.5])]


def test_grouped_bars_do_not_overlap():
    table = pd.concat([DATA.assign(side=side) for side in ("rank resumes", "rank jobs")])
    _, axes = plt.subplots()
    plots.bar_with_interval(axes, table, "x", hue="side")
    spans = sorted((patch.get_y(), patch.get_y() + patch.get_height()) for patch in axes.patches)
    assert all(one[1] <= two[0] + 1e-9 for one, two in itertools.pairwise(spans))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["rank resumes", "rank jobs"]


def metrics(shift: float) -> dict[str, float]:
    places = {"no band": 0.0, "0-1%": 0.1, "3-4%": 0.2, "10-20%": 0.3}
    names = ("resume ndcg@10", "job ndcg@10", "false negatives")
    return {f"{name}.{band}": value + shift for name in names for band, value in places.items()}


def runs_of_05(folder, seeds=(0, 1, 2), **parameters) -> None:
    for seed in seeds:
        run = record("05", {"profile": "laptop", "seed": seed, "batch_size": 4, **parameters}, folder)
        run.log(metrics(0.1 * seed))
        run.save()


def test_the_percentile_figure_orders_bands_and_lays_the_newest_run_on_top(tmp_path):
    runs_of_05(tmp_path, seeds=(0, 1))
    runs_of_05(tmp_path, seeds=(2,), families=0)  # a parameter that older records do not have
    runs = load_records(tmp_path / "records")
    fig, data = plots.percentile_of_records(runs, runs)
    assert fig.axes[0].get_title(loc="left") == plots.QUANTITIES["resume ndcg@10"]
    assert list(fig.axes[0].lines[0].get_xdata()) == [0.5, 3.5, 15], "a band stands at its middle"
    assert fig.get_suptitle().count("10-20%") == 2, "the title names the best band of both rankings"
    lines = {line.get_label(): line.get_ydata() for line in fig.axes[0].lines}
    assert list(lines["mean over markets, 95 % interval"]) == pytest.approx([0.15, 0.25, 0.35])
    assert list(lines["this run"]) == pytest.approx([0.3, 0.4, 0.5])
    assert lines["without mined negatives"][0] == pytest.approx(0.05)
    assert set(data["source"]) == {"reference", "this run"}


def test_runs_of_another_kind_are_no_reference(tmp_path):
    runs_of_05(tmp_path, batch_size=32, families=0)
    runs_of_05(tmp_path, families=4)
    runs_of_05(tmp_path, seeds=(0,), families=0)
    runs = load_records(tmp_path / "records")
    _, data = plots.percentile_of_records(runs, runs)
    assert set(data["source"]) == {"this run"}


def test_a_run_of_other_parameters_is_a_reference_but_never_this_run(tmp_path):
    runs_of_05(tmp_path)
    runs = load_records(tmp_path / "records")
    _, data = plots.percentile_of_records(runs, runs[:1])
    assert set(data.loc[data["source"] == "this run", "run"]) == {runs["id"][0]}
    assert set(data.loc[data["source"] == "reference", "run"]) == set(runs["id"][1:])
    with pytest.raises(LookupError, match="no run of notebook 05"):
        plots.percentile_of_records(runs, runs[:0])


def judged() -> pd.DataFrame:
    """Gains of two bands in two quantities, of which one survives Holm's correction."""
    rows = [("3-4%", "job ndcg@10", 0.02, 0.01), ("3-4%", "resume ndcg@10", 0.01, 0.6),
            ("0-1%", "job ndcg@10", -0.04, 0.2), ("0-1%", "resume ndcg@10", -0.01, 0.9)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["setting", "quantity", "mean", "p_holm"])
    return table.assign(low=table["mean"] - 0.01, high=table["mean"] + 0.01, size=4)


def test_bands_stand_at_their_middle_in_the_order_of_the_ranking():
    placed = plots.placed(pd.DataFrame({"setting": ["10-20%", "no band", "0-0.5%"]}))
    assert placed["place"].tolist()[:2] == [0.25, 15] and np.isnan(placed["place"].iloc[2])


def test_gains_of_bands_are_drawn_side_by_side_with_their_intervals():
    table = pd.concat([judged(), judged().assign(size=32)])
    fig = plots.gains_by_band(table, "size", ["resume ndcg@10", "job ndcg@10"])
    small, large = (container.lines[0] for container in fig.axes[1].containers)
    assert list(small.get_ydata()) == [-0.04, 0.02] and list(small.get_xdata()) == [0.5, 3.5]
    assert (large.get_xdata() > small.get_xdata()).all(), "or one interval hides the other"
    assert fig.axes[0].get_title(loc="left") == plots.QUANTITIES["resume ndcg@10"]


def test_a_heat_map_keeps_the_order_and_stars_what_survives():
    _, axes = plt.subplots()
    plots.heat_map(axes, judged(), "setting", "quantity")
    assert [text.get_text() for text in axes.texts] == ["+0.020 *", "+0.010", "-0.040", "-0.010"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3-4%", "0-1%"]


def test_a_forest_begins_at_the_top_and_marks_ours():
    _, axes = plt.subplots()
    plots.forest(axes, judged().query("quantity == 'job ndcg@10'"), "setting", ["0-1%"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3-4%", "0-1%"] and axes.yaxis_inverted()
    assert [container.lines[0].get_marker() for container in axes.containers] == ["o", "D"]
    assert axes.containers[1].lines[2][0].get_segments()[0][:, 0] == pytest.approx([-0.05, -0.03])


def test_a_folded_table_shows_its_summary_first():
    page = plots.folded(pd.DataFrame({"mean": [0.25]}), "All numbers").data
    assert page.startswith("<details><summary>All numbers</summary><table") and "0.25" in page


def test_the_results_table_is_the_newest_of_its_profile(tmp_path):
    for value, profile in ((0.1, "laptop"), (0.25, "laptop"), (0.9, "gpu")):
        run = record("07", {"profile": profile, "seed": 0}, tmp_path)
        run.log_table("results", pd.DataFrame({"system": ["BM25", "dense"], "map": [value, np.nan]}))
        run.save()
    lines = plots.results_markdown(load_records(tmp_path / "records").query("profile == 'laptop'")).splitlines()
    assert lines[:4] == ["| system | map |", "| :-- | --: |", "| BM25 | 0.250 |", "| dense |  |"]
    assert lines[-1].startswith("Notebook 07, profile laptop, seed 0, ")
    with pytest.raises(LookupError, match="no run"):
        plots.results_markdown(load_records(tmp_path / "records")[:0])


def test_the_headline_is_short_sorted_and_marks_confit():
    names = ["TF-IDF", "Siamese", "MiniLM, runner-ups"]
    numbers = {name: [0.1, 0.9, 0.5] for name in plots.LOOK["headline"]["columns"]}
    shown = plots.headline_of(pd.DataFrame({**numbers, "system": names, "AUC": 0.5}))
    assert (
        list(shown["system"]) == ["**ConFit v2, runner-ups alone**", "TF-IDF (word search)"]
        and list(shown) == plots.LOOK["headline"]["columns"]
    )
    assert list(shown["fit s"]) == ["**0.500**", "0.100"]
    assert len(plots.LOOK["headline"]["systems"]) <= 10 and len(plots.LOOK["headline"]["columns"]) <= 6


def test_a_readme_without_markers_is_left_alone(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Title\n")
    with pytest.raises(ValueError, match="results:begin"):
        plots.update_results(path, "table")
    assert path.read_text() == "# Title\n"
