"""Loads and unloads models while the server runs, where MODEL_CONTROL allows it.

An order holds from the moment it is given; only the answer to it is waited for. Whoever stops
waiting takes nothing back.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from app.core.errors import DeadlineExceeded, Forbidden, ServingError
from app.models.registry import Deployment, Registry

log = structlog.get_logger()

Order = Literal["load", "unload"]


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """Longest waits for an order to be carried out, in seconds."""

    load_s: float
    unload_s: float


class ModelControl:
    """Orders are for one version, or for all of a model."""

    def __init__(self, registry: Registry, limits: ControlLimits, *, is_allowed: bool) -> None:
        self._registry = registry
        self._limits = limits
        self._is_allowed = is_allowed

    def check_allowed(self) -> None:
        """Raises Forbidden."""
        if not self._is_allowed:
            raise Forbidden(
                "models are not loaded or unloaded by request: MODEL_CONTROL is none; set it to "
                "explicit and start the server again"
            )

    async def load(self, name: str, version: str | None, timeout_ms: float | None = None) -> None:
        """Returns when every version that is meant takes requests.

        Raises Forbidden, ModelNotFound, ModelUnavailable with the reasons, Superseded, or
        DeadlineExceeded while it still loads; that goes on.
        """
        await self._carry_out("load", name, version, _least(self._limits.load_s, timeout_ms))

    async def unload(self, name: str, version: str | None, timeout_ms: float | None = None) -> None:
        """Returns when they are gone, with their worker unless others need it. Raises as `load`."""
        await self._carry_out("unload", name, version, _least(self._limits.unload_s, timeout_ms))

    async def _carry_out(
        self, order: Order, name: str, version: str | None, limit_s: float
    ) -> None:
        self.check_allowed()
        meant = self._registry.versions(name, version)
        keys = [deployment.spec.key for deployment in meant]
        log.info("model_control", order=order, versions=keys)
        try:
            async with asyncio.timeout(limit_s):
                outcomes = await asyncio.gather(
                    *(_order(order, deployment) for deployment in meant), return_exceptions=True
                )
        except TimeoutError:
            raise DeadlineExceeded(
                f"the {order} of {', '.join(keys)} has not ended after {limit_s:g} s; it goes on, "
                "and the repository's index tells how it is"
            ) from None
        _raise_failures(outcomes)
        log.info("model_control_done", order=order, versions=keys)


async def _order(order: Order, deployment: Deployment) -> None:
    supervisor, key = deployment.supervisor, deployment.spec.key
    await (supervisor.load(key) if order == "load" else supervisor.unload(key))


def _raise_failures(outcomes: Sequence[BaseException | None]) -> None:
    """The first failure, with the words of all."""
    failures = []
    for outcome in outcomes:
        if isinstance(outcome, ServingError):
            failures.append(outcome)
        elif outcome is not None:
            raise outcome
    if failures:
        words = "; ".join(dict.fromkeys(map(str, failures)))
        raise type(failures[0])(words, retry_after_s=failures[0].retry_after_s)


def _least(limit_s: float, timeout_ms: float | None) -> float:
    return limit_s if timeout_ms is None else min(limit_s, timeout_ms / 1000)
