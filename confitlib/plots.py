"""One plot style, one way to save a figure with its data, and what records alone can redraw."""

import re
from collections.abc import Callable, Collection, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from adjustText import adjust_text
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from confitlib.evaluation import summarise_runs
from confitlib.records import metrics_by_setting
from confitlib.util import make_folder, project_root, read_yaml

MARKERS = "osD^v"  # a line is known by them where colours are not
SHARES = (0.5, 1, 2, 3, 4, 5, 10, 20, 50)  # ticks of an axis along a ranking, in percent
OF_ONE_KIND = [
    "preset", "families", "encoder", "mode", "epochs", "batch_size", "density", "learning_rate", "temperature", "split",
]  # fmt: skip
CONTRAST = "- *{setting}*: {mean:+.3f} [{low:+.3f}, {high:+.3f}] over {n:.0f} {unit}: **{verdict}**"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
LOOK = read_yaml(Path(__file__).with_name("plots.yaml"), dict)
QUANTITIES: dict[str, str] = LOOK["quantities"]
METHODS: dict[str, str] = LOOK["methods"]


def use_style() -> None:
    """Set the kit's one plot style: white grid, colour-blind-safe palette, sizes readable in a README."""
    sns.set_theme(style="whitegrid", palette="colorblind", rc=LOOK["style"])


def save(fig: Figure, name: str, data: pd.DataFrame, folder: str | Path = ".") -> None:
    """Write `<folder>/figures/<name>.png` and the data behind it as `.csv`; equal figures give equal bytes.

    A relative folder starts at the repository root. Raises ValueError for axes without labels, neither their own nor
    those of a panel they are shared with.
    """
    for place, axes in enumerate(fig.axes):
        across, down = (shared.get_siblings(axes) for shared in (axes.get_shared_x_axes(), axes.get_shared_y_axes()))
        named = any(one.get_xlabel().strip() for one in across) and any(one.get_ylabel().strip() for one in down)
        if axes.axison and axes.get_label() != "<colorbar>" and not named:
            raise ValueError(f"figure {name!r}: label both axes, with units, of panel {place}")
    target = make_folder(project_root() / folder / "figures")
    fig.savefig(target / f"{name}.png", dpi=150, metadata={"Software": None})
    data.to_csv(target / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")


def control(draw: Callable[..., Sequence[Any]], **widgets: Any) -> None:
    """Show widgets, below them what `draw` makes of their values, and that again in its place when one is moved.

    `draw`: takes the values by name and returns figures and tables, as many every time. The first are ordinary output,
    which a page without a running kernel shows too.
    """

    def frames() -> Sequence[Any]:
        shown = draw(**{name: widget.value for name, widget in widgets.items()})
        plt.close("all")  # or Jupyter shows open figures once more
        return shown

    display(*widgets.values())
    places = [display(frame, display_id=True) for frame in frames()]
    for widget in widgets.values():
        widget.observe(lambda _: [place.update(frame) for place, frame in zip(places, frames(), strict=True)], "value")


def share_axis(axis: Axis) -> None:
    """Let an axis (`axes.xaxis`) run along a ranking, in percent on a log scale; the best-ranked stand at its start."""
    axis.axes.set(**{"xscale" if axis is axis.axes.xaxis else "yscale": "log"})
    axis.set_ticks(SHARES, [f"{share:g}" for share in SHARES])
    axis.minorticks_off()
    axis.set_label_text("share of the ranking, best first (%)")


def line_with_band(axes: Axes, table: pd.DataFrame, x: str, hue: str) -> None:
    """Lines of `mean` over a column, one per value of `hue`, each with its band from `low` to `high`."""
    for marker, (label, group) in zip(cycle(MARKERS), table.groupby(hue, sort=False), strict=False):
        (line,) = axes.plot(group[x], group["mean"], marker=marker, label=label)
        axes.fill_between(group[x], group["low"], group["high"], color=line.get_color(), alpha=0.2, linewidth=0)
    axes.legend(title=hue)


def bar_with_interval(axes: Axes, table: pd.DataFrame, category: str, hue: str | None = None) -> None:
    """Horizontal bars of `mean`, one group a category with the first on top, whiskers from `low` to `high`."""
    categories = list(dict.fromkeys(table[category]))
    series = list(table.groupby(hue, sort=False)) if hue else [(None, table)]
    height = 0.8 / len(series)
    for position, (label, group) in enumerate(series):
        places = group[category].map(categories.index) + (position - (len(series) - 1) / 2) * height
        whiskers = group[["low", "high"]].sub(group["mean"], axis=0).abs().to_numpy().T
        axes.barh(places, group["mean"], height, xerr=whiskers, capsize=3, label=label)
    axes.set_yticks(range(len(categories)), [str(name) for name in categories])
    axes.set_ylim(len(categories) - 0.5, -0.5)
    if hue:
        axes.legend(title=hue)


def forest(axes: Axes, table: pd.DataFrame, category: str, ours: Collection[str] = ()) -> None:
    """Points at `mean` with whiskers from `low` to `high`, a row each from the top; diamonds for those in `ours`."""
    for place, row in enumerate(table.to_dict("records")):
        look: Any = {"fmt": "D", "color": "C3"} if row[category] in ours else {"fmt": "o", "color": "C0"}
        whiskers = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axes.errorbar(row["mean"], place, xerr=whiskers, capsize=3, **look)
    axes.set_yticks(range(len(table)), table[category])
    axes.set_ylim(len(table) - 0.5, -0.5)


def label_points(axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """Write the name of every point beside it, moved where names would overlap; the last thing to draw."""
    texts = [axes.text(*point, fontsize=9) for point in zip(x, y, names, strict=True)]
    figure: Any = axes.figure
    figure.draw_without_rendering()  # the layout decides how much room there is
    line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.8}
    adjust_text(texts, list(x), list(y), ax=axes, expand=(1.1, 1.3), arrowprops=line, iter_lim=400)


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """A table by its new column `place`, the middle of the band that `setting` names, such as "3-4%"; NaN for none."""
    bounds = table["setting"].str.extract("(.+)-(.+)%$").astype(float)
    return table.assign(place=bounds.mean(axis=1)).sort_values("place", kind="stable")


def percentile_of_records(records: pd.DataFrame, standard: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """`percentile` of the newest standard run of notebook 05 over all runs of its kind, and the data behind it.

    `standard`: the records among which the newest is looked for, as `notebooks.standard_records` selects them. Runs of
    a kind differ from it in nothing but seeds and bands. Raises LookupError without a run.
    """
    newest = metrics_by_setting(standard, "05", OF_ONE_KIND)
    newest = newest[newest["run"] == newest["run"].iloc[-1]]
    runs = metrics_by_setting(records, "05", OF_ONE_KIND)
    alike = runs[OF_ONE_KIND].eq(newest[OF_ONE_KIND].iloc[0]) | runs[OF_ONE_KIND].isna()  # a run may lack a parameter
    others = runs[alike.all(axis=1) & (runs["run"] != newest["run"].iloc[0])]
    once = others.drop_duplicates(["setting", "quantity", "seed"], keep="last")  # two sweeps may share a setting
    shown = pd.concat([once.assign(source="reference"), newest.assign(source="this run")])
    shown = shown[shown["quantity"].isin(QUANTITIES)]
    return percentile(shown), shown


def percentile(runs: pd.DataFrame) -> Figure:
    """Quantities against the place in the ranking that negatives were mined from, one panel each.

    `runs`: rows of `setting` ("3-4%", or "no band": a horizontal line), `quantity` (a key of `QUANTITIES`), `value` and
    `source`: "reference" is drawn as means with Student's 95 % intervals, "this run" as crosses.
    """
    # 1. a panel a quantity, two in a row
    quantities = [name for name in QUANTITIES if name in set(runs["quantity"])]
    rows = -(-len(quantities) // 2)
    fig, panels = plt.subplots(rows, 2, figsize=(10, 0.9 + 2.1 * rows), squeeze=False, sharex=True)
    for axes, quantity in zip(panels.flat, quantities, strict=False):
        table = summarise_runs(runs[runs["quantity"] == quantity], ["source", "setting"])
        # 2. the bands of each source, and a level line for its runs without mined negatives
        for source, part in placed(table).groupby("source"):
            look, mined = LOOK["sources"][source], part.dropna(subset="place")
            axes.plot(mined["place"], mined["mean"], **look["mined"])
            axes.fill_between(mined["place"], mined["low"], mined["high"], color=look["mined"]["color"], alpha=0.2)
            for value in part.loc[part["setting"] == "no band", "mean"]:  # none for what only negatives have
                axes.axhline(value, **look["unmined"])
        share_axis(axes.xaxis)
        axes.set(title=QUANTITIES[quantity], ylabel=re.split(r",| \(", QUANTITIES[quantity])[0])
    # 3. the axis along the ranking once; a panel that is left over stays empty
    for axes in panels[:-1].flat:
        axes.set_xlabel("")
    for spare in panels.flat[len(quantities) :]:
        spare.set_axis_off()
    # 4. where the highest means lie, and one legend for all panels
    means = placed(runs).dropna(subset="place").groupby(["quantity", "setting"], sort=False)["value"].mean()
    best = [f"{QUANTITIES[name]}: {means[name].idxmax()}" for name in quantities if name.endswith("ndcg@10")]
    fig.suptitle(f"Where the best negatives lie.  {',  '.join(best)}", fontsize=14)
    fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=10)
    return fig


def gains_by_band(judged: pd.DataFrame, hue: str, quantities: Sequence[str]) -> Figure:
    """Mean gains of bands with their intervals, a panel a quantity, a line a value of the column `hue`.

    `judged`: what `experiments.judge_gains` returns by setting, quantity and `hue`.
    """
    fig, panels = plt.subplots(1, len(quantities), figsize=(10, 4.4), squeeze=False, sharey=True)
    table = placed(judged).dropna(subset="place")
    for axes, quantity in zip(panels.flat, quantities, strict=True):
        lines = zip(("o-", "s--", "D:"), table[table["quantity"] == quantity].groupby(hue), strict=False)
        for shift, (look, (label, part)) in enumerate(lines):  # side by side: no interval hides another
            whiskers = part[["low", "high"]].sub(part["mean"], axis=0).abs().to_numpy().T
            axes.errorbar(1.09**shift * part["place"], part["mean"], whiskers, fmt=look, capsize=3, label=label)
        axes.axhline(0, color="0.3", linewidth=1)
        share_axis(axes.xaxis)
        axes.set(title=QUANTITIES[quantity], ylabel="gain over no mined negatives" if axes is panels[0, 0] else "")
    panels[0, -1].legend(title=hue)
    return fig


def heat_map(axes: Axes, judged: pd.DataFrame, down: str, across: str) -> None:
    """Mean gains as coloured cells in the order given; a star marks those whose `p_holm` is below 0.05."""
    judged = judged.assign(star=judged["p_holm"].lt(0.05).map({True: " *", False: ""}))
    rows, columns = (list(judged[name].unique()) for name in (down, across))
    means, stars = (judged.pivot(index=down, columns=across)[name].loc[rows, columns] for name in ("mean", "star"))
    limit, text = means.abs().to_numpy().max(), means.map("{:+.3f}".format) + stars
    sns.heatmap(means, annot=text, fmt="", cmap="RdBu", vmin=-limit, vmax=limit, linewidths=1, cbar=False, ax=axes)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, labelrotation=0, length=0)


def folded(table: pd.DataFrame, summary: str) -> HTML:
    """A table of numbers to look up, which a click on its summary unfolds; to be displayed."""
    return HTML(f"<details><summary>{summary}</summary>{table.to_html()}</details>")


def results_markdown(records: pd.DataFrame, headline: bool = False) -> str:
    """The newest table `results` that each notebook logged, as Markdown with its origin.

    Its `headline` is short, and is followed by the verdicts of all tables `contrasts`.

    Raises LookupError if no notebook logged one.
    """
    newest = records.drop_duplicates("notebook", keep="last").sort_values("notebook")
    runs = newest[newest["tables"].map(lambda tables: "results" in tables).astype(bool)]
    if runs.empty:
        raise LookupError("no run with the profile's parameters logged a table 'results'")
    pages = []
    for _, run in runs.iterrows():
        table = pd.DataFrame(run["tables"]["results"])
        shown = headline_of(table) if headline else table.map(cell)
        sides = ["--:" if pd.api.types.is_numeric_dtype(table[name]) else ":--" for name in shown]
        lines = ["| " + " | ".join(row) + " |" for row in [shown.columns, sides, *shown.to_numpy()]]
        origin = f"Notebook {run['notebook']}, profile {run['profile']}, seed {run['seed']}, "
        origin += f"commit {(run['commit'] or 'no git')[:7]}, {run['device']}, {run['seconds']:.0f} s."
        pages.append("\n".join([*lines, "", origin]))
    contrasts = [row for tables in newest["tables"][::-1] for row in tables.get("contrasts", ())]
    if headline and contrasts:
        pages.append("\n".join(map(CONTRAST.format_map, contrasts)))
    return "\n\n".join(pages)


def headline_of(results: pd.DataFrame) -> pd.DataFrame:
    """The systems and columns of a table `results` that a visitor sees first, as text: best first, ConFit's bold."""
    names, columns = LOOK["headline"]["systems"], LOOK["headline"]["columns"]
    chosen = results[results["system"].isin(names)].sort_values(columns[1], ascending=False)
    shown = chosen[columns].assign(system=chosen["system"].map(names)).map(cell)
    return shown.apply(lambda row: row.map("**{}**".format) if row["system"].startswith("ConFit") else row, axis=1)


def cell(value: Any) -> str:
    """A value of a table: three digits of a number with decimals, nothing for a missing one, else as it is."""
    if pd.isna(value) or not isinstance(value, float):
        return "" if pd.isna(value) else str(value)
    if abs(value) >= 1000 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def update_results(path: Path, markdown: str) -> None:
    """Put a table between the results markers of a Markdown file; raises ValueError without the markers."""
    before = path.read_text(encoding="utf-8")
    after, places = re.subn(f"(?s){BEGIN}.*{END}", lambda _: f"{BEGIN}\n{markdown}\n{END}", before)
    if not places:
        raise ValueError(f"{path}: put the lines {BEGIN} and {END} where the results belong")
    path.write_text(after, encoding="utf-8")
