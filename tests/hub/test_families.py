"""The families that the plan promises are those that the installed converters know."""

from importlib import import_module

import pytest

from app.preparing.plan.families import CTRANSLATE2, DECODERS, ENCODERS

# Libraries that warn while they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def exported_by_optimum(task: str) -> set[str]:
    import_module("optimum.exporters.openvino.model_configs")  # registers what it exports
    manager = import_module("optimum.exporters.tasks").TasksManager
    types = manager._SUPPORTED_MODEL_TYPE
    return {name for name, exports in types.items() if task in exports.get("openvino", {})}


def configs_of_transformers() -> dict[str, str]:
    names = import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    return dict(names)


def test_encoders_are_exported_for_classification_and_for_embedding():
    assert ENCODERS <= exported_by_optimum("text-classification")
    assert ENCODERS <= exported_by_optimum("feature-extraction")


def test_decoders_are_exported_with_their_keys_and_values():
    assert DECODERS <= exported_by_optimum("text-generation-with-past")


def test_families_are_known_to_transformers_without_code_of_their_own():
    assert ENCODERS | DECODERS | CTRANSLATE2 <= set(configs_of_transformers())


def test_encoder_decoders_have_a_loader_of_ctranslate2():
    loaders = import_module("ctranslate2.converters.transformers")._MODEL_LOADERS
    configs = configs_of_transformers()
    assert {configs[name] for name in CTRANSLATE2} <= set(loaders)
