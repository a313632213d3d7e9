"""Measures a one-shot model on this machine at its first load, and remembers the result.

Runs in the worker, before it is ready. What is measured is decided by scheduling/calibrate.py; the
result is kept as JSON beside the model files under a key of everything that shapes it, so a later
start reads it in no time. A model whose batches take milliseconds is measured with many of them;
one whose batches take seconds with few, because a start must not take minutes.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from app.runtimes.base import OneShotRuntime, StreamPlan
from app.scheduling.batcher import BatchLimits
from app.scheduling.calibrate import TEXTS, Choice, Traffic, choose, grid
from app.scheduling.cost_model import CostModel, Sample
from app.workers.rivals import Rivals

log = structlog.get_logger()

SECONDS_PER_SHAPE = 0.1
BATCHES_PER_TRY = 3
SLOW_BATCH_S = 0.1  # from here on a batch is timed once more, and by itself
SECONDS_PER_PLAN = 12.0  # once spent, larger shapes are left to the cost model
SECONDS_TO_TRY = 12.0  # to find a quiet moment, beyond one measurement of each plan
DISTURBED_FOR_S = 3600.0  # the age at which a result of no quiet moment is measured again
LEAST_SHAPES = 3  # as many as the cost model has parts
FIRST_TOKEN_ID = 1000  # an ordinary word in every vocabulary we serve

_Positive = Annotated[int, msgspec.Meta(gt=0)]
_Milliseconds = Annotated[float, msgspec.Meta(ge=0)]

Build = Callable[[StreamPlan], OneShotRuntime]


class Calibration(msgspec.Struct, frozen=True):
    """What was chosen. tokens_per_s: predicted pace of all streams together. is_disturbed: others
    used the processors while it was measured."""

    streams: _Positive
    threads: _Positive
    max_padded_tokens: _Positive
    fixed_ms: _Milliseconds
    per_token_ms: _Milliseconds
    per_pair_ms: _Milliseconds
    tokens_per_s: float
    is_disturbed: bool = False

    @property
    def plan(self) -> StreamPlan:
        return StreamPlan(self.streams, self.threads)

    @property
    def cost(self) -> CostModel:
        return CostModel(self.fixed_ms, self.per_token_ms, self.per_pair_ms)

    def limits(self, max_rows: int, max_hold_s: float, traffic: Traffic = TEXTS) -> BatchLimits:
        rows = traffic.rows_for(self.streams, max_rows)
        return BatchLimits(rows, self.max_padded_tokens, max_hold_s)


def load_calibrated(
    build: Build,
    path: Path,
    cpu_threads: int,
    max_rows: int,
    measuring: Callable[[], AbstractContextManager[None]],
    traffic: Traffic = TEXTS,
) -> tuple[OneShotRuntime, Calibration]:
    """The runtime in the plan that suits the machine; measures only when `path` has no result, or
    one that others disturbed when it was measured, some time ago."""
    known = _read(path)
    if known is not None and not (known.is_disturbed and _age_s(path) > DISTURBED_FOR_S):
        return build(known.plan), known
    until = time.perf_counter() + SECONDS_TO_TRY
    runtime: OneShotRuntime | None = None
    found: dict[StreamPlan, Calibration] = {}
    plans = candidate_plans(cpu_threads, traffic.max_streams)
    left = plans
    while left and (len(found) < len(plans) or time.perf_counter() < until):
        plan, *left = left
        if runtime is None or runtime.plan != plan:
            runtime = None  # the weights of one at a time
            runtime = build(plan)
        rivals = Rivals(cpu_threads)
        with measuring(), rivals.watched():
            measured = measure(runtime, max_rows, traffic)
        if rivals.have_disturbed:
            measured = msgspec.structs.replace(measured, is_disturbed=True)
            left = [*left, plan]
        _tell(measured)
        found[plan] = max(found.get(plan, measured), measured, key=_trust)
    if runtime is None:
        raise ValueError("no way of cutting up the CPU to choose from")
    best = _best([found[plan] for plan in plans], traffic, runtime.tokenizer.max_tokens)
    _write(path, best)
    if runtime.plan != best.plan:
        runtime = None
        runtime = build(best.plan)
    return runtime, best


def _trust(calibration: Calibration) -> tuple[bool, float]:
    """What nobody disturbed counts for more, else what was faster: others only ever slow down."""
    return not calibration.is_disturbed, calibration.tokens_per_s


def _best(candidates: Sequence[Calibration], traffic: Traffic, max_tokens: int) -> Calibration:
    """Candidates come in the order of `candidate_plans`; the first of them is the usual one."""
    best, *others = candidates
    for candidate in others:
        worth, bar = (
            traffic.worth(one.cost, one.tokens_per_s, max_tokens) for one in (candidate, best)
        )
        if worth > traffic.least_gain_of_fewer * bar:
            best = candidate
    disturbed = any(candidate.is_disturbed for candidate in candidates)
    return msgspec.structs.replace(best, is_disturbed=disturbed)


def _tell(found: Calibration) -> None:
    log.info(
        "calibrated",
        streams=found.streams,
        threads=found.threads,
        max_padded_tokens=found.max_padded_tokens,
        tokens_per_s=round(found.tokens_per_s),
        disturbed=found.is_disturbed,
    )


def uncalibrated(build: Build, cpu_threads: int) -> tuple[OneShotRuntime, Calibration]:
    """For rows whose cost nobody can know beforehand: a single-threaded stream per thread, and a
    cost in proportion to their size, which the running scale makes true. Nothing is held back."""
    plan = StreamPlan(cpu_threads, 1)
    assumed = Calibration(plan.streams, plan.threads, TEXTS.budgets[-1], 0.0, 1.0, 0.0, 0.0)
    return build(plan), assumed


def candidate_plans(cpu_threads: int, max_streams: int) -> list[StreamPlan]:
    """From as many batches at a time as may be, each on its share of the threads, to one on all."""
    streams = [min(cpu_threads, max_streams), 1]
    if streams[0] == max_streams > 2:  # few, so that the way in between may be best
        streams.insert(1, 2)
    plans = [StreamPlan(count, cpu_threads // count) for count in streams]
    return plans[:1] if cpu_threads == 1 else plans


def measure(runtime: OneShotRuntime, max_rows: int, traffic: Traffic = TEXTS) -> Calibration:
    """Times of a grid of shapes with every stream busy, and what follows from them."""
    plan, max_tokens = runtime.plan, runtime.tokenizer.max_tokens
    max_rows = traffic.rows_for(plan.streams, max_rows)
    until = time.perf_counter() + SECONDS_PER_PLAN
    samples: list[Sample] = []
    with ThreadPoolExecutor(plan.streams) as threads:
        for rows, tokens in grid(max_rows, max_tokens, traffic):
            if len(samples) >= LEAST_SHAPES and time.perf_counter() >= until:
                break
            samples.append(Sample(rows, tokens, _time_shape(runtime, threads, rows, tokens)))
    chosen: Choice = choose(
        samples, plan.streams, max_rows, max_tokens, max_hold_s=0.0, traffic=traffic
    )
    return Calibration(
        streams=plan.streams,
        threads=plan.threads,
        max_padded_tokens=chosen.limits.max_padded_tokens,
        fixed_ms=chosen.cost.fixed_ms,
        per_token_ms=chosen.cost.per_token_ms,
        per_pair_ms=chosen.cost.per_pair_ms,
        tokens_per_s=chosen.tokens_per_s,
    )


def _time_shape(
    runtime: OneShotRuntime, threads: ThreadPoolExecutor, rows: int, tokens: int
) -> float:
    """Milliseconds of one batch while every stream runs batches like it, one after the other.

    The best of several tries, each the slowest of the streams: noise only ever adds.
    """
    batch = [[FIRST_TOKEN_ID + row] * tokens for row in range(rows)]

    def slowest(batches: int) -> float:
        def timed(_: int) -> float:
            started = time.perf_counter()
            for _ in range(batches):
                runtime.probe(batch)
            return (time.perf_counter() - started) * 1000 / batches

        return max(threads.map(timed, range(runtime.plan.streams)))

    first_ms = slowest(1)  # some libraries compile what a new shape needs
    if first_ms >= SLOW_BATCH_S * 1000:
        return min(first_ms, slowest(1))
    best_ms, until = math.inf, time.perf_counter() + SECONDS_PER_SHAPE
    while best_ms == math.inf or time.perf_counter() < until:
        best_ms = min(best_ms, slowest(BATCHES_PER_TRY))
    return best_ms


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def _read(path: Path) -> Calibration | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("calibration_unreadable", path=str(path), error=str(error))
        return None


def _write(path: Path, calibration: Calibration) -> None:
    temporary = path.with_suffix(f".{time.monotonic_ns()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(calibration))
        temporary.replace(path)
    except OSError as error:  # a read-only store costs a measurement per start, no more
        log.warning("calibration_not_kept", path=str(path), error=str(error))
