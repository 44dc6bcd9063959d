"""Cost curves of the benchmark: power laws, estimates, and one small measurement."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.scaling import extrapolate, fit_power_laws, measure_costs


def costs_of(**laws: tuple[float, float]) -> pd.DataFrame:
    rows = [{"step": step, "documents": n, "seconds": factor * n**power, "floor": factor * n**power / 4}
            for step, (factor, power) in laws.items() for n in (1000, 2000, 8000)]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_power_law_is_recovered_and_needs_two_sizes():
    laws = fit_power_laws(costs_of(encode=(0.5, 1.0), mine=(1e-6, 2.0)))
    assert np.allclose(laws, [[0.5, 1.0, 4.0], [1e-6, 2.0, 4.0]])
    with pytest.raises(ValueError, match="'mine' was measured at one size"):
        fit_power_laws(costs_of(mine=(1.0, 1.0))[:1])


def test_an_estimate_grows_with_the_order_of_the_step():
    hours = extrapolate(costs_of(encode=(0.45, 1.0), mine=(1e-6, 1.5)), {"encode": 1, "mine": 2}, [8000, 80_000], 2)
    assert hours.loc["encode"].tolist() == pytest.approx([0.5, 5.0])
    assert hours.loc["mine", 80_000] == pytest.approx(100 * 1e-6 * 8000**1.5 / 2 / 3600)


@pytest.mark.slow
def test_costs_are_measured_for_every_step_and_size():
    costs = measure_costs([60, 120])
    assert costs["step"].tolist() == ["encode", "mine", "train", "evaluate"] * 2
    assert costs["documents"].tolist() == [60] * 4 + [120] * 4
    assert (costs[["seconds", "floor"]] > 0).all(axis=None)
