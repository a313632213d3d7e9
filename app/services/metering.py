"""What a call used, version by version, as its caller will see it.

Tokens are those of the answers that are given. Where a call fails as a whole because one of its
inputs did (OpenAI's routes), nothing is answered, and nothing is charged but the failure. Of a
stream that was cut off, by whomever, its prompt counts as soon as the model reads it, and what was
written until then.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from app.core.price import FREE
from app.core.types import Asker, Done, Outcome, Usage
from app.models.registry import Deployment
from app.models.spec import ModelSpec


@dataclass(slots=True)
class Use:
    """cached_items: those answered from the response cache. compute_ms: of what was computed for
    this call, answered or not."""

    requests: int = 0
    items: int = 0
    failures: int = 0
    cached_items: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    compute_ms: float = 0.0
    cost_nanos: int = 0


class Meter(Protocol):
    """keys/metering.py has it."""

    def add(self, key: str, model: str, version: str, use: Use) -> None:
        """key: an id; empty for callers without one. Returns at once."""


class Metered(Protocol):
    """One input of a call. used: tokens so far, of one that is streamed."""

    @property
    def deployment(self) -> Deployment | None: ...

    @property
    def outcome(self) -> Outcome | None: ...

    @property
    def used(self) -> Usage: ...


def charge(
    meter: Meter, asker: Asker, inputs: Iterable[Metered], *, is_whole_lost: bool = False
) -> None:
    """Once per call, at its end. is_whole_lost: none of it was answered."""
    uses: dict[int, tuple[ModelSpec, Use]] = {}
    for each in inputs:
        if each.deployment is None:
            continue
        spec = each.deployment.spec
        found = uses.get(id(spec))
        if found is None:
            found = uses[id(spec)] = (spec, Use(requests=1))
        _count(found[1], each, is_lost=is_whole_lost)
    for spec, use in uses.values():
        if spec.price is not FREE:
            use.cost_nanos = spec.price.of(
                requests=int(use.failures < use.items),
                input_tokens=use.input_tokens,
                output_tokens=use.output_tokens,
                compute_ms=use.compute_ms,
            )
        meter.add(asker.key, spec.name, spec.version, use)


def _count(use: Use, each: Metered, *, is_lost: bool) -> None:
    use.items += 1
    outcome = each.outcome
    if not isinstance(outcome, Done):
        use.failures += 1
        use.input_tokens += each.used.input_tokens
        use.output_tokens += each.used.output_tokens
        return
    use.compute_ms += outcome.timings.compute_ms
    if is_lost:
        use.failures += 1
        return
    use.cached_items += outcome.is_cached
    use.input_tokens += outcome.answer.usage.input_tokens
    use.output_tokens += outcome.answer.usage.output_tokens
