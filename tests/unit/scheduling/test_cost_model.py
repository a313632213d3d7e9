"""The cost model: fitted once, kept true by every batch, thrown off by none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.scheduling.calibrate import grid
from app.scheduling.cost_model import SCALE_BOUNDS, CostModel, Sample, fit

GRID = grid(max_rows=8, max_tokens=256)
MODEL = CostModel(fixed_ms=2.0, per_token_ms=0.05, per_pair_ms=0.0001)
COST = st.floats(0.001, 10)


def measured(model: CostModel, noise=lambda index: 1.0) -> list[Sample]:
    return [
        Sample(rows, tokens, model.predict_ms(rows, tokens) * noise(index))
        for index, (rows, tokens) in enumerate(GRID)
    ]


@given(COST, COST, COST)
def test_fit_finds_the_machine_that_made_the_samples(fixed, per_token, per_pair):
    machine = CostModel(fixed, per_token / 10, per_pair / 1000)
    found = fit(measured(machine))

    for rows, tokens in [*GRID, (3, 40), (2, 200)]:
        assert found.predict_ms(rows, tokens) == pytest.approx(
            machine.predict_ms(rows, tokens), rel=1e-3
        )


def test_fit_finds_the_parts_themselves():
    found = fit(measured(MODEL))

    assert (found.fixed_ms, found.per_token_ms, found.per_pair_ms) == pytest.approx(
        (MODEL.fixed_ms, MODEL.per_token_ms, MODEL.per_pair_ms), rel=1e-6
    )


@pytest.mark.parametrize(
    "machine",
    [CostModel(3.0, 0.0, 0.0), CostModel(0.0, 0.05, 0.0), CostModel(0.0, 0.0, 0.001)],
    ids=["fixed only", "tokens only", "pairs only"],
)
def test_fit_leaves_out_a_part_that_the_machine_does_not_have(machine):
    found = fit(measured(machine))

    assert found.predict_ms(5, 100) == pytest.approx(machine.predict_ms(5, 100), rel=1e-6)


@given(st.lists(st.floats(0.01, 1000), min_size=len(GRID), max_size=len(GRID)))
def test_no_part_is_ever_negative_and_every_batch_costs_something(times):
    found = fit([Sample(rows, tokens, ms) for (rows, tokens), ms in zip(GRID, times, strict=True)])

    assert min(found.fixed_ms, found.per_token_ms, found.per_pair_ms) >= 0
    assert found.predict_ms(1, 1) > 0


def test_fit_is_not_thrown_off_by_a_few_per_cent_of_noise():
    found = fit(measured(MODEL, noise=lambda index: 1.05 if index % 2 else 0.95))

    for rows, tokens in GRID:
        assert found.predict_ms(rows, tokens) == pytest.approx(
            MODEL.predict_ms(rows, tokens), rel=0.12
        )


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0, 15.0])
def test_observing_follows_a_machine_whose_speed_has_changed(factor):
    model = MODEL
    for _ in range(60):
        for rows, tokens in GRID:
            ms = factor * MODEL.predict_ms(rows, tokens)
            model = model.observe(Sample(rows, tokens, ms))

    assert model.predict_ms(4, 64) == pytest.approx(factor * MODEL.predict_ms(4, 64), rel=0.02)


@pytest.mark.parametrize("factor", [1e-6, 0.1, 10.0, 1e6])
def test_one_outlier_changes_predictions_by_less_than_a_tenth(factor):
    before = MODEL.predict_ms(4, 64)
    after = MODEL.observe(Sample(4, 64, before * factor)).predict_ms(4, 64)

    assert after == pytest.approx(before, rel=0.1)


def test_nothing_that_is_measured_moves_predictions_out_of_all_proportion():
    slow = fast = MODEL
    for _ in range(1000):
        slow = slow.observe(Sample(4, 64, 1e9))
        fast = fast.observe(Sample(4, 64, 0.0))

    assert (fast.scale, slow.scale) == SCALE_BOUNDS
