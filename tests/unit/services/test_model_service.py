"""What `/models`, health and readiness are told."""

from datetime import UTC, datetime

import pytest

from app.models.registry import Registry
from app.services.model_service import ModelService
from app.workers.status import ServingState, Status
from tests.fakes import AnswersWhenTold, a_deployment, a_spec


class Served:
    """Two models on one worker and one on another."""

    def __init__(self) -> None:
        self.minilm, self.smollm = AnswersWhenTold("minilm"), AnswersWhenTold("smollm")
        self.service = ModelService(
            Registry(
                [
                    a_deployment(a_spec("sentiment:v1", "classify", is_default=False), self.minilm),
                    a_deployment(a_spec("generator:v1", "generate"), self.smollm),
                    a_deployment(a_spec("sentiment:v2", "classify"), self.minilm),
                ]
            )
        )

    def state(self, minilm: str, smollm: str) -> "Served":
        self.minilm.status = Status(ServingState(minilm))
        self.smollm.status = Status(ServingState(smollm))
        return self


@pytest.mark.parametrize(
    ("minilm", "smollm", "ready", "started"),
    [
        ("ready", "ready", True, True),
        ("ready", "loading", False, False),
        ("ready", "restarting", False, True),
        ("ready", "failed", True, True),
        ("ready", "unavailable", True, True),
        ("unavailable", "failed", False, True),
        ("failed", "failed", False, True),
        ("stopping", "ready", False, True),
    ],
)
def test_ready_means_that_each_serves_or_is_given_up_and_one_serves(minilm, smollm, ready, started):
    readiness = Served().state(minilm, smollm).service.readiness()

    assert (readiness.ready, readiness.started) == (ready, started)


@pytest.mark.parametrize(
    ("minilm", "smollm", "ready", "can_serve"),
    [
        ("ready", "unloaded", True, True),
        ("ready", "unloading", True, True),
        ("failed", "unloaded", False, False),
        ("restarting", "unloaded", False, False),
        ("unloaded", "unloaded", True, True),
    ],
)
def test_versions_that_are_unloaded_count_neither_way(minilm, smollm, ready, can_serve):
    readiness = Served().state(minilm, smollm).service.readiness()

    assert (readiness.ready, readiness.started, readiness.can_serve) == (ready, True, can_serve)
    assert readiness.versions["generator:v1"] == {"state": smollm}
    assert "generator:v1" not in readiness.troubles


def test_loading_by_request_holds_readiness_up_for_nobody():
    served = Served().state("ready", "loading")
    served.smollm.asked_for = {"generator:v1"}

    readiness = served.service.readiness()
    assert (readiness.ready, readiness.started, readiness.troubles) == (True, True, ())


def test_a_server_that_stops_is_not_ready_though_every_worker_is():
    served = Served()
    served.service.stop()

    readiness = served.service.readiness()
    assert (readiness.ready, readiness.stopping, readiness.started) == (False, True, True)


def test_readiness_names_every_version_with_its_state_and_reason():
    served = Served()
    served.smollm.status = Status(ServingState.RESTARTING, "the worker was ended by SIGKILL")
    served.minilm.refused = {"sentiment:v1": "its head is missing"}

    assert served.service.readiness().versions == {
        "sentiment:v1": {"state": "failed", "reason": "its head is missing"},
        "generator:v1": {"state": "restarting", "reason": "the worker was ended by SIGKILL"},
        "sentiment:v2": {"state": "ready"},
    }


def test_version_that_restarts_says_when_the_next_try_is():
    served = Served()
    at = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
    served.smollm.status = Status(ServingState.RESTARTING, "it died", next_start=at)

    assert served.service.readiness().versions["generator:v1"] == {
        "state": "restarting",
        "reason": "it died",
        "next_start": "2026-01-02T03:04:05.678Z",
    }


def test_version_that_will_be_tried_again_says_when_and_holds_readiness_up_for_nobody():
    served = Served()
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    served.smollm.status = Status(ServingState.FAILED, "the hub is away", next_start=at)

    readiness = served.service.readiness()
    assert readiness.ready
    assert readiness.versions["generator:v1"] == {
        "state": "failed",
        "reason": "the hub is away",
        "next_start": "2026-01-02T03:04:05.000Z",
    }


def test_version_that_failed_alone_does_not_show_the_next_start_of_its_worker():
    served = Served()
    served.minilm.status = Status(ServingState.RESTARTING, "", next_start=datetime.now(UTC))
    served.minilm.refused = {"sentiment:v1": "its head is missing"}

    assert "next_start" not in served.service.readiness().versions["sentiment:v1"]


def test_nothing_to_serve_is_not_ready():
    assert not ModelService(Registry([])).readiness().ready


def test_models_are_listed_with_their_versions_in_the_order_of_the_catalog():
    sentiment, generator = Served().service.describe()

    assert (sentiment["name"], sentiment["default_version"]) == ("sentiment", "v2")
    assert [version["version"] for version in sentiment["versions"]] == ["v1", "v2"]
    assert (generator["name"], generator["default_version"]) == ("generator", "v1")


def test_a_version_shows_what_it_takes_and_how_its_worker_is():
    served = Served()
    served.smollm.status = Status(
        ServingState.READY, load_s=4.25, restarts=1, resident_bytes=7, max_tokens=2048
    )
    _, generator = served.service.describe()
    (version,) = generator["versions"]

    assert (version["state"], version["task"], version["model_type"]) == (
        "ready",
        "generate",
        "generator",
    )
    assert version["max_input_tokens"] == 2048
    assert version["artefact"] == {
        "name": "minilm",
        "license": "MIT",
        "origin": "",
        "size_bytes": 1000,
    }
    assert version["worker"]["name"] == "smollm"
    assert (version["worker"]["load_s"], version["worker"]["restarts"]) == (4.25, 1)
    parameters = {parameter["name"]: parameter for parameter in version["parameters"]}
    assert parameters["temperature"]["maximum"] == 2
    assert parameters["temperature"]["default"] is None
    assert "else 0.7" in parameters["temperature"]["description"]


def test_a_version_that_takes_tensors_shows_their_names_types_and_shapes():
    signature = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": []}
    worker = AnswersWhenTold("iris")
    worker.status = Status(ServingState.READY, signature=signature)
    served = a_deployment(a_spec("iris:v1", "tensors"), worker)
    text = a_deployment(a_spec("sentiment:v1", "classify"))

    iris, sentiment = ModelService(Registry([served, text])).describe()

    assert iris["versions"][0]["signature"] == signature
    assert "signature" not in sentiment["versions"][0]
