"""What a version costs: whole numbers of billionths of a unit of money, so that sums are exact."""

from dataclasses import dataclass

NANOS = 1_000_000_000
_MILLION = 1_000_000
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Each in billionths: per million tokens in and out, per request, per hour of computing."""

    input_tokens: int = 0
    output_tokens: int = 0
    request: int = 0
    compute_hour: int = 0

    def of(self, *, requests: int, input_tokens: int, output_tokens: int, compute_ms: float) -> int:
        """Billionths, rounded down to a whole one."""
        tokens = input_tokens * self.input_tokens + output_tokens * self.output_tokens
        computing = round(compute_ms * 1000) * self.compute_hour
        return requests * self.request + tokens // _MILLION + computing // _HOUR_US


FREE = Price()
