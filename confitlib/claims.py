"""What the kit asserts, and the check of it against records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from confitlib.util import read_yaml

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["OK", "OKish", "FAIL", "MISSING"]


class ClaimError(ValueError):
    """A claims file that cannot be used; the message names file, claim and remedy."""


@dataclass(frozen=True)
class Claim:
    """A number that the kit asserts, and how far a new run may be from it.

    The value is `metric` of the newest record of `notebook` under `profile`, less the metric `minus`
    if given. `reason` says where the tolerance comes from, `source` where the statement does: a
    place in the paper, or "kit". `better` ("higher" or "lower") excuses being beyond the tolerance
    on the good side.
    """

    id: str
    statement: str
    notebook: str
    profile: str
    metric: str
    expected: float
    tolerance: float
    reason: str
    source: str
    minus: str | None = None
    better: Literal["higher", "lower"] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf or not math.isfinite(self.expected):
            raise ClaimError(f"claim {self.id!r}: expected and tolerance must be finite, tolerance not negative")
        if self.expected and self.tolerance >= abs(self.expected):
            what = f"tolerance {self.tolerance} reaches from the expected {self.expected} to zero, so it hardly fails"
            raise ClaimError(f"claim {self.id!r}: {what}. Average over more seeds, or drop the claim.")
        blank = [name for name in ("statement", "reason", "source") if not getattr(self, name)]
        if blank:
            raise ClaimError(f"claim {self.id!r}: {' and '.join(blank)} must be said")
        if self.better not in (None, "higher", "lower"):
            raise ClaimError(f"claim {self.id!r}: better is {self.better!r}, use higher or lower")

    def value(self, metrics: Mapping[str, float | None]) -> float | None:
        """The claimed quantity in a record's metrics, or None if it is absent or undefined there."""
        left, right = metrics.get(self.metric), metrics.get(self.minus) if self.minus else 0.0
        return None if left is None or right is None else left - right


def load_claims(path: str | Path) -> list[Claim]:
    """The claims of a YAML list; raises ClaimError naming the entry and its missing or unknown keys.

    Raises ValueError naming file and line for what is no YAML list.
    """
    claims = [_claim(path, number, entry) for number, entry in enumerate(read_yaml(path, list), 1)]
    ids = [claim.id for claim in claims]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if repeated:
        raise ClaimError(f"{path}: claim ids {repeated} appear more than once")
    return claims


def _claim(path: str | Path, number: int, entry: Any) -> Claim:
    where = f"{path}, entry {number}"
    if not isinstance(entry, dict):
        raise ClaimError(f"{where}: expected a mapping, found {entry!r}")
    known = {item.name for item in fields(Claim)}
    missing = sorted(known - {"minus", "better"} - set(entry))
    unknown = sorted(set(entry) - known)
    if missing or unknown:
        raise ClaimError(f"{where} ({entry.get('id')}): missing keys {missing}, unknown keys {unknown}")
    try:
        return Claim(**{**entry, "expected": float(entry["expected"]), "tolerance": float(entry["tolerance"])})
    except (TypeError, ValueError) as error:
        raise ClaimError(f"{where}: {error}") from error


def judge(claim: Claim, value: float | None) -> tuple[Verdict, str]:
    """Verdict on a value and the reason for it.

    OK: within the tolerance. OKish: within twice the tolerance, or beyond it on the declared good
    side, which deserves a look because leakage shows like that. FAIL: everything else, and always
    when a claimed difference has lost its sign. MISSING: no value.
    """
    if value is None:
        return "MISSING", f"no {claim.profile} record of notebook {claim.notebook} holds the metric"
    away = value - claim.expected
    if claim.minus and claim.expected and value * claim.expected <= 0:
        return "FAIL", "the order is reversed"
    if abs(away) <= claim.tolerance + 1e-9:  # room for the rounding of the subtraction
        return "OK", ""
    if claim.better and (away > 0) == (claim.better == "higher"):
        return "OKish", f"better than expected by {abs(away):.4g}: look for leakage"
    if abs(away) <= 2 * claim.tolerance + 1e-9:
        return "OKish", f"off by {away:+.4g}, within twice the tolerance"
    return "FAIL", f"off by {away:+.4g}"


def check_claims(records: pd.DataFrame, claims: Sequence[Claim]) -> pd.DataFrame:
    """Every claim against the newest record of its notebook and profile.

    Returns one row a claim: id, statement, notebook, profile, expected, tolerance, value, verdict,
    note, time (of the record).
    """
    import pandas as pd

    rows = []
    for claim in claims:
        mine = _records_of(records, claim)
        newest = mine.iloc[-1] if len(mine) else None
        value = None if newest is None else claim.value(newest["metrics"])
        verdict, note = judge(claim, value)
        shown = {name: getattr(claim, name) for name in ("id", "statement", "notebook", "profile")}
        shown |= {"expected": claim.expected, "tolerance": claim.tolerance, "value": value}
        rows.append({**shown, "verdict": verdict, "note": note, "time": None if newest is None else newest["time"]})
    columns = ["id", "statement", "notebook", "profile", "expected", "tolerance", "value", "verdict", "note", "time"]
    return pd.DataFrame(rows, columns=columns)


def _records_of(records: pd.DataFrame, claim: Claim) -> pd.DataFrame:
    return records[(records["notebook"] == claim.notebook) & (records["profile"] == claim.profile)]


def measure_claim(values: Sequence[float]) -> tuple[float, float]:
    """Expected value and tolerance of a claim from one measured value per seed.

    The expectation is the mean. The tolerance is the half-width of Student's 95 % prediction interval for one new
    seed: t(n-1) · s · sqrt(1 + 1/n), with s the sample standard deviation. A new run of unchanged code therefore
    falls outside in one case of twenty. Raises ValueError on fewer than three values, where the interval says nothing.
    """
    import numpy as np
    from scipy import stats

    n = len(values)
    if n < 3:
        raise ValueError(f"{n} values cannot measure a spread: run at least three seeds, better five")
    spread = float(np.std(values, ddof=1))
    return float(np.mean(values)), float(stats.t.ppf(0.975, n - 1)) * spread * math.sqrt(1 + 1 / n)


def measure_claims(records: pd.DataFrame, claims: Sequence[Claim]) -> pd.DataFrame:
    """Expectation, standard deviation and tolerance of every claim from the newest record of each seed.

    Returns one row a claim: id, seeds (how many), expected, sd, tolerance. Raises ValueError naming a
    claim with fewer than three seeds.
    """
    import numpy as np
    import pandas as pd

    rows = []
    for claim in claims:
        mine = _records_of(records, claim).drop_duplicates("seed", keep="last")
        values = [value for metrics in mine["metrics"] if (value := claim.value(metrics)) is not None]
        try:
            expected, tolerance = measure_claim(values)
        except ValueError as error:
            raise ValueError(f"claim {claim.id!r}: {error}") from error
        sd = float(np.std(values, ddof=1))
        rows.append({"id": claim.id, "seeds": len(values), "expected": expected, "sd": sd, "tolerance": tolerance})
    return pd.DataFrame(rows, columns=["id", "seeds", "expected", "sd", "tolerance"])


def passed(checked: pd.DataFrame) -> bool:
    """Whether no claim failed or is missing."""
    return not cast(bool, checked["verdict"].isin(["FAIL", "MISSING"]).any())
