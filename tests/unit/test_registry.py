"""From a caller's words to a version."""

import pytest

from app.core.errors import ModelNotFound
from app.core.parameters import resolve
from app.models.registry import Registry
from tests.fakes import AnswersWhenTold, a_deployment, a_spec

REGISTRY = Registry(
    a_deployment(spec)
    for spec in (
        a_spec("sentiment:v1", "classify", is_default=False),
        a_spec("sentiment:v2", "classify"),
        a_spec("generator:v1", "generate"),
    )
)


def refusal(name: str, version: str | None = None) -> str:
    with pytest.raises(ModelNotFound) as refused:
        REGISTRY.resolve(name, version)
    return str(refused.value)


def test_without_a_version_the_default_is_meant():
    assert REGISTRY.resolve("sentiment", None).spec.key == "sentiment:v2"


def test_a_version_that_is_not_the_default_can_be_named():
    assert REGISTRY.resolve("sentiment", "v1").spec.key == "sentiment:v1"


def test_an_unknown_model_is_told_which_there_are():
    assert (
        refusal("summarizer") == "model 'summarizer' does not exist; models: sentiment, generator"
    )


def test_an_unknown_version_is_told_which_this_model_has():
    assert refusal("sentiment", "v3") == "model 'sentiment' has no version 'v3'; versions: v1, v2"


def test_the_version_of_another_model_does_not_count():
    assert "has no version 'v2'" in refusal("generator", "v2")


def test_a_very_long_name_makes_a_short_message():
    assert len(refusal("x" * 10_000)) < 200
    assert len(refusal("sentiment", "x" * 10_000)) < 200


def test_an_empty_registry_says_so():
    with pytest.raises(ModelNotFound, match="models: none"):
        Registry([]).resolve("sentiment", None)


def test_deployments_are_listed_in_the_order_of_the_catalog():
    assert [d.spec.key for d in REGISTRY] == ["sentiment:v1", "sentiment:v2", "generator:v1"]


def test_a_deployment_knows_its_task_and_what_it_takes():
    deployment = REGISTRY.resolve("generator", None)

    assert deployment.task.model_type == "generator"
    assert "temperature" in [parameter.name for parameter in deployment.parameters]


def test_what_writes_counts_as_drawn_until_its_worker_has_said_what_the_checkpoint_does():
    worker = AnswersWhenTold()
    generator = a_deployment(a_spec("generator:v1", "generate"), worker)
    greedy = resolve(generator.parameters, {"temperature": 0})
    assert generator.draws(greedy)

    worker.task_options["generator:v1"] = {}
    assert not generator.draws(greedy)
    assert generator.draws(resolve(generator.parameters, {}))


def test_what_does_not_write_never_draws():
    sentiment = a_deployment(a_spec("sentiment:v1", "classify"))

    assert not sentiment.draws(resolve(sentiment.parameters, {}))
