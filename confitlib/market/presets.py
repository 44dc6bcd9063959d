"""Sizes and activity of the markets that can be composed by name."""

from __future__ import annotations

from dataclasses import dataclass

from confitlib.corpus import SPLITS, Side, Split
from confitlib.market.labels import Activity


@dataclass(frozen=True)
class Preset:
    """A market by numbers.

    `activity`, `held_out_activity`: applications of the train split, and of valid and test;
    `queries`: most candidate lists per target and held-out split; `families`: families of
    occupations (12 in all); `classification`: accepted and rejected pairs kept as labels of valid
    and of test (None: all); `list_positives`: mean positives of a candidate list of resumes and of
    jobs (None: as they come).
    """

    name: str
    train_resumes: int
    train_jobs: int
    valid_resumes: int
    valid_jobs: int
    test_resumes: int
    test_jobs: int
    activity: Activity
    held_out_activity: Activity
    queries: int
    families: int = 12
    classification: tuple[int, int] | None = None
    list_positives: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for split in SPLITS:
            for name in (f"{split}_resumes", f"{split}_jobs"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 1 <= self.families <= 12:
            raise ValueError(f"families must be from 1 to 12, not {self.families}")

    def sizes(self, side: Side) -> dict[Split, int]:
        """Documents of a side by split."""
        return {split: getattr(self, f"{split}_{side}s") for split in SPLITS}


TINY = Preset(
    name="tiny",
    train_resumes=240,
    train_jobs=100,
    valid_resumes=80,
    valid_jobs=40,
    test_resumes=120,
    test_jobs=60,
    activity=Activity(per_resume=2.92, per_job=7.0, most_per_resume=5, most_per_job=14, pull=10.0),
    held_out_activity=Activity(per_resume=2.0, per_job=4.0, most_per_resume=4, most_per_job=8, pull=12.0),
    queries=40,
    families=3,
)

LAPTOP = Preset(
    name="laptop",
    train_resumes=2_000,
    train_jobs=800,
    valid_resumes=300,
    valid_jobs=120,
    test_resumes=1_000,
    test_jobs=300,
    activity=Activity(per_resume=2.85, per_job=7.125, most_per_resume=6, most_per_job=20, pull=9.0),
    held_out_activity=Activity(per_resume=1.7, per_job=4.25, most_per_resume=4, most_per_job=12, pull=12.0),
    queries=300,
)

# The two corpora of the ConFit papers, as counted from the label files released with ConFit v1.
# Documents that occur in no label there fill up the train split to the published row counts.
INTELLIPRO = Preset(
    name="intellipro",
    train_resumes=11_153,
    train_jobs=1_794,
    valid_resumes=1_154,
    valid_jobs=188,
    test_resumes=1_154,
    test_jobs=427,
    activity=Activity(per_resume=6_751 / 6_435, per_job=6_751 / 1_794, most_per_resume=4, most_per_job=43, pull=5.6),
    held_out_activity=Activity(per_resume=1.3, per_job=8.3, most_per_resume=4, most_per_job=26, pull=6.5),
    queries=120,
    classification=(48, 72),
    list_positives=(3.92, 1.10),
)

ALIYUN = Preset(
    name="aliyun",
    train_resumes=2_781,
    train_jobs=19_542,
    valid_resumes=678,
    valid_jobs=3_179,
    test_resumes=1_006,
    test_jobs=3_179,
    activity=Activity(per_resume=22_124 / 2_718, per_job=22_124 / 19_542, most_per_resume=37, most_per_job=4, pull=6.0),
    held_out_activity=Activity(per_resume=8.8, per_job=1.2, most_per_resume=28, most_per_job=5, pull=7.0),
    queries=300,
    classification=(133, 167),
    list_positives=(1.33, 4.55),
)

PRESETS = {preset.name: preset for preset in (TINY, LAPTOP, INTELLIPRO, ALIYUN)}
