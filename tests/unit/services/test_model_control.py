"""Orders to load and unload: whom they concern, how long is waited, what is told."""

import asyncio

import pytest

from app.core.errors import (
    DeadlineExceeded,
    Forbidden,
    ModelNotFound,
    ModelUnavailable,
    Superseded,
)
from app.models.registry import Registry
from app.services.model_control import ControlLimits, ModelControl
from tests.fakes import AnswersWhenTold, a_deployment, a_spec, settle_tasks


class CarriesOut(AnswersWhenTold):
    """Does at once what it is told; fails for versions that it was given an error for."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[tuple[str, str]] = []
        self.errors: dict[str, Exception] = {}

    async def load(self, version: str) -> None:
        self._take("load", version)

    async def unload(self, version: str) -> None:
        self._take("unload", version)

    def _take(self, order: str, version: str) -> None:
        self.orders.append((order, version))
        if version in self.errors:
            raise self.errors[version]


class NeverEnds(CarriesOut):
    async def load(self, version: str) -> None:
        await super().load(version)
        await asyncio.Event().wait()


def control_of(supervisor: CarriesOut, *, is_allowed: bool = True) -> ModelControl:
    versions = [
        a_spec("sentiment:v1", "classify", is_default=False),
        a_spec("sentiment:v2", "classify"),
        a_spec("embedder:v1"),
    ]
    registry = Registry(a_deployment(spec, supervisor) for spec in versions)
    return ModelControl(registry, ControlLimits(1000.0, 1000.0), is_allowed=is_allowed)


async def test_a_model_is_all_of_its_versions_and_one_can_be_named():
    worker = CarriesOut()
    control = control_of(worker)
    await control.load("sentiment", None)
    await control.unload("sentiment", "v1")
    assert worker.orders == [
        ("load", "sentiment:v1"),
        ("load", "sentiment:v2"),
        ("unload", "sentiment:v1"),
    ]


@pytest.mark.parametrize(("name", "version"), [("missing", None), ("sentiment", "v9")])
async def test_what_does_not_exist_is_not_found(name, version):
    with pytest.raises(ModelNotFound):
        await control_of(CarriesOut()).unload(name, version)


async def test_nothing_is_ordered_where_that_is_not_allowed():
    worker = CarriesOut()
    with pytest.raises(Forbidden, match="MODEL_CONTROL is none; set it to explicit"):
        await control_of(worker, is_allowed=False).load("missing", None)
    assert worker.orders == []


@pytest.mark.parametrize(
    ("errors", "kind", "words"),
    [
        ({"sentiment:v2": Superseded("undone")}, Superseded, "undone"),
        (
            {"sentiment:v1": ModelUnavailable("v1 has failed"), "sentiment:v2": Superseded("v2")},
            ModelUnavailable,
            "v1 has failed; v2",
        ),
        ({"sentiment:v1": ValueError("a bug")}, ValueError, "a bug"),
    ],
    ids=["one", "both", "bug"],
)
async def test_reasons_of_all_versions_are_told_and_each_was_ordered(errors, kind, words):
    worker = CarriesOut()
    worker.errors = errors
    with pytest.raises(kind) as failed:
        await control_of(worker).load("sentiment", None)
    assert str(failed.value) == words
    assert len(worker.orders) == 2


async def test_who_waits_too_long_is_told_that_it_goes_on():
    worker = NeverEnds()
    with pytest.raises(DeadlineExceeded, match="load of embedder:v1 .* 0.001 s; it goes on"):
        await control_of(worker).load("embedder", None, timeout_ms=1.0)
    assert worker.orders == [("load", "embedder:v1")]


async def test_who_leaves_takes_nothing_back():
    worker = NeverEnds()
    waiting = asyncio.create_task(control_of(worker).load("embedder", None))
    await settle_tasks()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert worker.orders == [("load", "embedder:v1")]
