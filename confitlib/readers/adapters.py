"""Formats of others: Hugging Face datasets, RecBole-PJF atomic files and the raw Tianchi tables."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.readers import repairs
from confitlib.readers.release import IDS, LAYOUT, locate
from confitlib.readers.repairs import PLACE, Accept, Report, fail, note_unused, select
from confitlib.readers.tables import FRACTIONS, PairReader, split_documents

# --- Hugging Face datasets ---

PAIR_OPTIONS = ("columns", "label_values", "threshold", "split", "seed", "regime", "accept", "name")


def load_hub(name_or_path: str | Path, *, configs: Mapping[str, str | None] | None = None, **options: Any) -> Corpus:
    """Read a Hugging Face dataset: a hub name, a folder of data files, or what `save_to_disk` wrote.

    The dataset is one table of pairs, whose splits (if there are several) are the corpus's; or
    its parts named `pairs`, `resumes` and `jobs` are tables. `configs` names the configuration
    that holds each table, e.g. `{"pairs": "labels", "resumes": "cv", "jobs": "posts"}`. `options`: columns,
    label_values, threshold, split, seed, regime, accept and name are those of `load_pairs`; the others
    go to `datasets.load_dataset` (revision, cache_dir, token, …). Class labels are read by their names.
    """
    import datasets  # takes seconds, and only this reader needs it

    # 1. the parts of the dataset
    own = {option: options.pop(option) for option in PAIR_OPTIONS if option in options}
    title = own.pop("name", None) or str(name_or_path).rstrip("/").rsplit("/", maxsplit=1)[-1]
    report, regime, seed = Report(own.pop("accept", ())), own.pop("regime", "cold"), own.pop("seed", 0)
    parts = {}
    for table, config in (configs or {"pairs": None}).items():
        saved = any((Path(name_or_path) / marker).exists() for marker in ("dataset_dict.json", "state.json"))
        try:
            read = datasets.load_from_disk if saved else partial(datasets.load_dataset, name=config, **options)
            parts[table] = read(str(name_or_path))
        except Exception as error:  # of any package that reads some format: the remedy is the same
            what = f"not read as a dataset ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            raise fail("unreadable", f"{name_or_path} [{table}]", what) from error
    if not configs and isinstance(parts["pairs"], dict) and "pairs" in parts["pairs"]:
        parts = dict(parts["pairs"])
    if "pairs" not in parts:
        raise ValueError(f"configs: name the configuration of the pairs; got {sorted(parts)}")
    # 2. frames, class labels by name; several splits become the column `split`
    tables = {}
    for table, part in parts.items():
        splits = part if isinstance(part, dict) else {"": part}
        frames = []
        for split, dataset in splits.items():
            frame = dataset.to_pandas()
            for column, feature in dataset.features.items():
                if names := getattr(feature, "names", None):
                    frame[column] = [names[code] if code >= 0 else None for code in frame[column]]
            frames.append(frame.assign(split=split) if len(splits) > 1 else frame)
        whole = pd.concat(frames)
        where = f"{name_or_path} [{table}]"
        tables[table] = (whole.set_axis(repairs.numbered(where, len(whole))), where)
    return PairReader(tables, report, **own).corpus(title, regime, seed)


# --- RecBole-PJF atomic files ---

RECBOLE = LAYOUT["recbole"]


def load_recbole(
    folder: str | Path,
    name: str,
    *,
    threshold: float | None = None,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    accept: Accept = (),
    encoding: str = "utf-8",
) -> Corpus:
    """Read the atomic files `<name>.inter` and `.user`, `.item`, `.udoc`, `.idoc`, as far as they exist.

    Headers are typed (`user_id:token`, `label:float`). Users are resumes, items are jobs. The
    sentences of a document, one a row, become the lines of the field `text`; other columns of
    .user and .item are fields of their own. A pair is accepted if its label is at least `threshold` (0.5, for labels
    from 0 to 1) in any of its interactions, rejected otherwise; without a column `label` every interaction is an
    acceptance. Splits come from `split_documents` (`fractions`, `seed`); `accept`: see `load`.
    """
    report, path, ids = Report(accept), Path(folder) / f"{name}.inter", {}
    events = _read_atomic(path, report, encoding)
    # 1. documents
    for side, names in RECBOLE["ids"].items():
        ids[side] = next((column for column in names if column in events.columns), names[0])
        select(events, [ids[side]], f"{path}, header", f"Name the column of {side} ids {' or '.join(names)}.", report)
    report.settle()
    tables = {f"{side}s": _atomic_documents(path, side, ids[side], report, encoding) for side in SIDES}
    # 2. labels
    note_unused(events, [*ids.values(), "label"], path, report)
    pairs = pd.DataFrame({f"{side}_id": events[ids[side]].map(repairs.as_id).astype("str") for side in SIDES})
    if "label" not in events.columns:
        report.notes.append(f"{path}: no column 'label', so every interaction counts as an acceptance")
        events = events.assign(label=1)
    scores = pd.to_numeric(events["label"], errors="coerce")
    least, known = (RECBOLE["threshold"], scores.between(0, 1)) if threshold is None else (threshold, scores.notna())
    for place, score in events["label"][~known].items():
        what = f"label {score!r} is not a number from 0 to 1"
        report.add("unknown_label", place, what, "Give threshold=, or repair it.")
    tables["labels"] = repairs.merge_events(pairs.assign(label=(scores >= least).astype("int64"))[known], report)
    return split_documents(repairs.assemble(tables, report, name), fractions, seed)


def _read_atomic(path: Path, report: Report, encoding: str) -> pd.DataFrame:
    raw = repairs.read_separated(path, report, encoding)
    for cell in raw.columns:
        if cell.partition(":")[2] not in RECBOLE["types"]:
            raise fail("untyped_header", f"{path}, header", f"header cell {cell!r} has no known type")
    return raw.set_axis([cell.partition(":")[0] for cell in raw.columns], axis=1)


def _atomic_documents(path: Path, side: Side, id_column: str, report: Report, encoding: str) -> pd.DataFrame:
    """Features and sentences of one side, joined on the id; one of the two files may be missing."""
    features, sentences = (path.with_name(f"{path.stem}{suffix}") for suffix in RECBOLE["files"][side])
    frames = []
    for source in [source for source in (features, sentences) if source.exists()]:
        raw = _read_atomic(source, report, encoding)
        ids = select(raw, [id_column], source, f"Name the ids of {side}s alike in every file.", report)[id_column]
        fields = raw.drop(columns=id_column, errors="ignore")
        if source == sentences:  # one line a sentence, under the place of the first
            if id_column not in raw.columns or len(fields.columns) != 1:
                what = f"expected {id_column!r} and one column of sentences, found {', '.join(raw.columns)}"
                raise fail("missing_column", f"{source}, header", what, "See the RecBole-PJF format.")
            lines = fields.iloc[:, 0].groupby(ids, sort=False).agg("\n".join)
            ids = ids[~ids.duplicated()]
            fields = lines.to_frame("text").set_axis(ids.index)
        frames.append(repairs.document_frame(side, ids, fields))
    if not frames:
        raise fail("missing_file", features, f"neither it nor {sentences.name} exists", "Check folder and name.")
    first, *others = frames
    for texts in others:
        joined = first.join(texts.drop(columns=PLACE), how="left", rsuffix="_sentences")
        first = pd.concat([joined, texts[~texts.index.isin(first.index)]]).fillna("")
    return first


# --- Tianchi (AliYun) person-job fit ---

TIANCHI = LAYOUT["tianchi"]


def load_tianchi(
    folder: str | Path,
    *,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    accept: Accept = (),
    encoding: str = "utf-8",
) -> Corpus:
    """Read `table1_user`, `table2_jd` and `table3_action` (no suffix, .txt, .tsv or .csv).

    Label 1: the recruiter was satisfied. Label 0: the resume was delivered and the recruiter was
    not satisfied. Pairs that were only browsed are not judged, hence no labels; `Corpus.notes`
    counts them. Of several actions on a pair the most favourable counts. Fields carry the Chinese
    names of the official configuration, so that `save` writes what the official scripts read;
    薪资 joins min_salary and max_salary.
    Splits come from `split_documents` (`fractions`, `seed`); `accept`: see `load`; the dump has
    broken rows, hence `accept="ragged_row"`.
    """
    report, tables = Report(accept), {}
    files = {role: [f"{stem}{ending}" for ending in TIANCHI["endings"]] for role, stem in TIANCHI["files"].items()}
    paths = locate(Path(folder), files)

    def read(role: str, columns: Sequence[str]) -> pd.DataFrame:
        """The named columns of a table; the dump is tab-separated without quoting."""
        if role not in paths:
            raise fail("missing_file", folder, f"no file {' or '.join(files[role])}")
        raw = repairs.read_separated(paths[role], report, encoding)
        note_unused(raw, columns, paths[role], report)
        frame = select(raw, columns, paths[role], "Restore the header of the dump.", report)
        report.settle()
        return frame

    # 1. labels
    actions = read("labels", [*IDS.values(), "browsed", *TIANCHI["flags"]])
    flags = actions[TIANCHI["flags"]].apply(pd.to_numeric, errors="coerce")
    odd = ~flags.isin([0, 1]).all(axis=1)
    for place, row in actions[odd].iterrows():
        what = f"delivered {row['delivered']!r}, satisfied {row['satisfied']!r}: not 0 or 1"
        report.add("unknown_label", place, what, "Correct the row, or accept 'unknown_label' to drop it.")
    judged = ~odd & flags.any(axis=1)
    if browsed := (~odd & ~judged).sum():
        report.notes.append(f"{paths['labels']}: {browsed} actions were browsing only and give no label")
    events = pd.DataFrame({f"{side}_id": actions[IDS[side]] for side in SIDES}).assign(label=flags["satisfied"])
    tables["labels"] = repairs.merge_events(events[judged].astype({"label": "int64"}), report)
    # 2. documents
    for side in SIDES:
        names = LAYOUT["aliyun"][side]
        raw_names = [name for name in names if name != "salary"]
        raw_names += ["min_salary", "max_salary"] if side == "job" else []
        raw = read(f"{side}s", [IDS[side], *raw_names])
        fields = raw[raw_names].replace(TIANCHI["missing"], "")
        if side == "job":
            fields["salary"] = fields["min_salary"].str.cat(fields["max_salary"], sep="-").replace("-", "")
        tables[f"{side}s"] = repairs.document_frame(side, raw[IDS[side]], fields[list(names)].rename(columns=names))
    return split_documents(repairs.assemble(tables, report, "tianchi"), fractions, seed)
