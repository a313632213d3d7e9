"""Predicts how long a batch takes on this machine.

A padded batch of an encoder costs a fixed part, a part per padded token, and, for attention, a
part per padded token and its row's length:

    ms = fixed + per_token * rows * longest + per_pair * rows * longest^2

An encoder-decoder's batch costs the same and what it writes, which is not known before; that is in
the fixed part, because a step reads all weights for however many rows, and in the running scale.

The three are fitted once by calibration (least squares on relative errors); a running scale,
the quotient of measured and predicted time, smoothed in its logarithm so that a stalled batch
weighs no more than a quick one, keeps them true afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

SMOOTHING = 0.05  # weight of the newest batch in the running scale
QUOTIENT_BOUNDS = (0.2, 5.0)  # one stalled batch must not teach nonsense
# Wide, because an encoder-decoder is calibrated on a few tokens and may write twenty times as many.
SCALE_BOUNDS = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """A measured batch: shape and milliseconds."""

    rows: int
    longest: int
    ms: float


@dataclass(frozen=True, slots=True)
class CostModel:
    """Milliseconds of a batch from its shape. Immutable: `observe` returns the better model."""

    fixed_ms: float
    per_token_ms: float
    per_pair_ms: float
    scale: float = 1.0

    def predict_ms(self, rows: int, longest: int) -> float:
        """Milliseconds for `rows` rows padded to `longest` tokens."""
        tokens = rows * longest
        return self.scale * (
            self.fixed_ms + self.per_token_ms * tokens + self.per_pair_ms * tokens * longest
        )

    def by_rows(self, longest: int) -> tuple[float, float]:
        """Milliseconds of any batch, and further ones of each row, where rows have `longest`."""
        per_row = self.per_token_ms * longest + self.per_pair_ms * longest * longest
        return self.scale * self.fixed_ms, self.scale * per_row

    def observe(self, sample: Sample) -> "CostModel":
        """The model after one more measured batch."""
        predicted = self.predict_ms(sample.rows, sample.longest)
        quotient = min(max(sample.ms / predicted, QUOTIENT_BOUNDS[0]), QUOTIENT_BOUNDS[1])
        scale = self.scale * quotient**SMOOTHING
        return replace(self, scale=min(max(scale, SCALE_BOUNDS[0]), SCALE_BOUNDS[1]))


def fit(samples: Sequence[Sample]) -> CostModel:
    """The model that fits the samples best in relative terms; no part is negative."""
    rows = np.array([sample.rows for sample in samples], dtype=float)
    longest = np.array([sample.longest for sample in samples], dtype=float)
    ms = np.array([sample.ms for sample in samples], dtype=float)
    features = np.stack([np.ones_like(rows), rows * longest, rows * longest**2], axis=1)
    solution = _non_negative_least_squares(features / ms[:, None], np.ones_like(ms))
    return CostModel(*(float(part) for part in solution))


def _non_negative_least_squares(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares over the best subset of columns whose weights are all positive."""
    columns = features.shape[1]
    best, best_error = np.zeros(columns), np.inf
    for subset in range(1, 2**columns):
        chosen = [column for column in range(columns) if subset >> column & 1]
        weights, *_ = np.linalg.lstsq(features[:, chosen], target, rcond=None)
        error = float(np.sum((features[:, chosen] @ weights - target) ** 2))
        if (weights >= 0).all() and error < best_error:
            best, best_error = np.zeros(columns), error
            best[chosen] = weights
    return best
