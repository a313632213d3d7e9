"""Measuring a runtime and remembering the result. What is chosen: scheduling/test_calibrate.py."""

import os
import weakref
from contextlib import contextmanager, nullcontext

import pytest

from app.runtimes.base import StreamPlan
from app.scheduling.calibrate import DOCUMENTS, TEXTS, UNBOUNDED
from app.workers import calibration
from app.workers.calibration import (
    Calibration,
    candidate_plans,
    load_calibrated,
    measure,
    uncalibrated,
)
from tests.fakes import SumsTokens


class Neighbours:
    """In place of `Rivals`: whether each measurement is disturbed is said beforehand."""

    def __init__(self) -> None:
        self.disturb: list[bool] = []

    def __call__(self, threads: int) -> "Neighbours":
        self.have_disturbed = self.disturb.pop(0) if self.disturb else False
        return self

    def watched(self):
        return nullcontext()


@pytest.fixture(autouse=True)
def neighbours(monkeypatch):
    """One try per shape; the fakes answer at once."""
    monkeypatch.setattr(calibration, "SECONDS_PER_SHAPE", 0.0)
    quiet = Neighbours()
    monkeypatch.setattr(calibration, "Rivals", quiet)
    return quiet


KEPT = Calibration(2, 1, 512, 1.5, 0.05, 0.0001, 9000.0)


class Workshop:
    """Builds runtimes and counts how often the machine is measured, one plan at a time."""

    def __init__(self) -> None:
        self.built: list[SumsTokens] = []
        self.measured = 0
        self.is_measuring = False

    def build(self, plan: StreamPlan) -> SumsTokens:
        assert not self.is_measuring, "loading disturbs the measurement"
        runtime = SumsTokens(plan.streams)
        runtime.plan = plan
        self.built.append(runtime)
        return runtime

    @contextmanager
    def measuring(self):
        self.is_measuring = True
        yield
        self.is_measuring = False
        self.measured += 1

    def load(self, path, cpu_threads=2):
        return load_calibrated(self.build, path, cpu_threads, 8, self.measuring)


@pytest.mark.parametrize(
    ("threads", "max_streams", "plans"),
    [
        (1, UNBOUNDED, [StreamPlan(1, 1)]),
        (4, UNBOUNDED, [StreamPlan(4, 1), StreamPlan(1, 4)]),
        (2, 4, [StreamPlan(2, 1), StreamPlan(1, 2)]),
        (16, 4, [StreamPlan(4, 4), StreamPlan(2, 8), StreamPlan(1, 16)]),
    ],
    ids=["one thread", "four threads", "two threads, few streams", "many threads, few streams"],
)
def test_every_plan_uses_all_threads(threads, max_streams, plans):
    assert candidate_plans(threads, max_streams) == plans


def test_the_first_load_measures_each_plan_and_keeps_the_best(tmp_path):
    workshop = Workshop()
    runtime, found = workshop.load(tmp_path / "folder" / "key.json")

    assert workshop.measured == 2
    assert runtime is workshop.built[-1]
    assert runtime.plan == found.plan
    assert found.max_padded_tokens in TEXTS.budgets
    assert found.tokens_per_s > 0


@pytest.mark.parametrize("winner", [StreamPlan(2, 1), StreamPlan(1, 2)], ids=["first", "last"])
def test_the_weights_of_one_plan_at_a_time_are_held_and_the_best_is_served(
    tmp_path, monkeypatch, winner
):
    def measured(runtime, max_rows, traffic):
        plan = runtime.plan
        pace = 900.0 if plan == winner else 100.0
        return Calibration(plan.streams, plan.threads, 512, 1.5, 0.05, 0.0001, pace)

    monkeypatch.setattr(calibration, "measure", measured)
    alive: weakref.WeakSet[SumsTokens] = weakref.WeakSet()
    most_alive = 0

    class Held(SumsTokens):
        def __init__(self, plan: StreamPlan) -> None:
            nonlocal most_alive
            super().__init__(plan.streams)
            self.plan = plan
            alive.add(self)
            most_alive = max(most_alive, len(alive))

    runtime, found = load_calibrated(Held, tmp_path / "key.json", 2, 8, nullcontext)

    assert runtime.plan == found.plan == winner
    assert most_alive == 1


@pytest.mark.parametrize(("traffic", "winner"), [(TEXTS, 2), (DOCUMENTS, 1)])
def test_where_batches_are_large_streams_must_pay_for_their_memory(
    tmp_path, monkeypatch, traffic, winner
):
    def measured(runtime, max_rows, traffic):
        plan = runtime.plan
        return Calibration(plan.streams, plan.threads, 512, 1.5, 0.05, 0.0001, 100.0)

    monkeypatch.setattr(calibration, "measure", measured)
    _, found = load_calibrated(Workshop().build, tmp_path / "key.json", 2, 8, nullcontext, traffic)
    assert found.streams == winner


def paces(monkeypatch, *figures: float) -> None:
    """Figures of the measurements to come, in their order."""
    left = list(figures)

    def measured(runtime, max_rows, traffic):
        plan = runtime.plan
        return Calibration(plan.streams, plan.threads, 512, 1.5, 0.05, 0.0001, left.pop(0))

    monkeypatch.setattr(calibration, "measure", measured)


def test_plan_that_others_disturbed_is_measured_again(tmp_path, monkeypatch, neighbours):
    paces(monkeypatch, 100.0, 500.0, 900.0)
    neighbours.disturb = [True, False, False]
    _, found = Workshop().load(tmp_path / "key.json")
    assert (found.streams, found.tokens_per_s, found.is_disturbed) == (2, 900.0, False)


def test_figures_of_a_quiet_moment_count_for_more_than_better_ones(
    tmp_path, monkeypatch, neighbours
):
    paces(monkeypatch, 900.0, 100.0, 500.0)
    neighbours.disturb = [True, False, False]
    _, found = Workshop().load(tmp_path / "key.json")
    assert found.tokens_per_s == 500.0


def test_machine_that_is_never_quiet_is_measured_for_a_while_and_anew_after_an_hour(
    tmp_path, monkeypatch, neighbours
):
    path = tmp_path / "key.json"
    monkeypatch.setattr(calibration, "SECONDS_TO_TRY", 0.0)
    neighbours.disturb = [True] * 4
    first = Workshop()
    assert first.load(path)[1].is_disturbed
    assert first.measured == 2

    soon = Workshop()
    assert soon.load(path)[1].is_disturbed
    assert soon.measured == 0

    os.utime(path, (0, 0))
    neighbours.disturb = []
    later = Workshop()
    assert not later.load(path)[1].is_disturbed
    assert later.measured == 2


def test_a_later_load_measures_nothing_and_builds_the_kept_plan(tmp_path):
    _, first = Workshop().load(tmp_path / "key.json")
    later = Workshop()
    runtime, second = later.load(tmp_path / "key.json")

    assert second == first
    assert later.measured == 0
    assert [built.plan for built in later.built] == [first.plan]
    assert runtime.batches == []


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"], ids=["empty", "no fields", "no text"])
def test_a_damaged_result_is_measured_again_and_replaced(tmp_path, content):
    path = tmp_path / "key.json"
    path.write_bytes(content)
    workshop = Workshop()
    workshop.load(path)

    assert workshop.measured == 2
    assert Workshop().load(path)[1].streams in (1, 2)


def test_a_folder_that_cannot_be_written_costs_a_measurement_and_no_more(tmp_path):
    (tmp_path / "file").write_text("in the way")

    assert Workshop().load(tmp_path / "file" / "key.json")[1].tokens_per_s > 0


def test_nothing_half_written_is_left_beside_the_result(tmp_path):
    Workshop().load(tmp_path / "key.json")

    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_measuring_runs_every_shape_on_every_stream_within_the_models_bounds():
    runtime = SumsTokens(streams=2)
    found = measure(runtime, max_rows=4)

    shapes = {(len(batch), len(batch[0])) for batch in runtime.batches}
    assert {(1, 16), (4, 64)} <= shapes
    assert all(rows <= 4 and tokens <= 64 for rows, tokens in shapes)
    least = (1 + calibration.BATCHES_PER_TRY) * runtime.plan.streams  # a warm-up and one try
    assert all(
        sum((len(batch), len(batch[0])) == shape for batch in runtime.batches) >= least
        for shape in shapes
    )
    assert (found.streams, found.threads) == (2, 1)


def test_a_slow_batch_is_timed_once_more_and_no_oftener(monkeypatch):
    monkeypatch.setattr(calibration, "SLOW_BATCH_S", 0.0)
    runtime = SumsTokens(streams=2)
    measure(runtime, max_rows=4, traffic=DOCUMENTS)

    shapes = [(len(batch), len(batch[0])) for batch in runtime.batches]
    assert all(shapes.count(shape) == 2 * runtime.plan.streams for shape in shapes)


def test_once_the_time_is_spent_larger_shapes_are_left_to_the_cost_model(monkeypatch):
    monkeypatch.setattr(calibration, "SECONDS_PER_PLAN", 0.0)
    runtime = SumsTokens()
    found = measure(runtime, max_rows=4)

    shapes = {(len(batch), len(batch[0])) for batch in runtime.batches}
    assert shapes == {(1, 16), (1, 64), (4, 16)}, "the smallest ones"
    assert found.tokens_per_s > 0


def test_limits_join_what_was_measured_with_what_was_configured():
    limits = KEPT.limits(max_rows=8, max_hold_s=0.1)

    assert (limits.max_rows, limits.max_padded_tokens, limits.max_hold_s) == (8, 512, 0.1)
    assert KEPT.limits(max_rows=32, max_hold_s=0.1, traffic=DOCUMENTS).max_rows == 4
    assert KEPT.cost.predict_ms(2, 10) == pytest.approx(1.5 + 0.05 * 20 + 0.0001 * 200)


def test_what_cannot_be_measured_gets_a_stream_per_thread_and_is_never_held_back():
    workshop = Workshop()
    runtime, assumed = uncalibrated(workshop.build, 3)

    assert (workshop.measured, runtime.plan) == (0, StreamPlan(3, 1))
    assert assumed.cost.predict_ms(4, 2) == 2 * assumed.cost.predict_ms(2, 2) > 0
