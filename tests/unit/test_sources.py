from pathlib import Path

import pytest

from app.core.errors import ConfigurationError
from app.models.sources import FileSource, PypiSource, parse_source


def test_packaged_file_is_a_pinned_package_and_a_path_in_its_wheel():
    source = parse_source("pypi://some-model==1.0.2/some_model/data/model.onnx")
    assert source == PypiSource("some-model", "1.0.2", "some_model/data/model.onnx")
    assert source.requirement == "some-model==1.0.2"
    assert source.file_name == "model.onnx"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("file://../assets/head.json", "../assets/head.json", id="relative"),
        pytest.param("file:///srv/model.gguf", "/srv/model.gguf", id="absolute"),
    ],
)
def test_file_on_this_machine_keeps_its_path(text, path):
    assert parse_source(text) == FileSource(Path(path))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("model.onnx", "not a source", id="no scheme"),
        pytest.param("https://host/model.onnx", "not a source", id="unknown scheme"),
        pytest.param("hf://org/model/file", "not supported yet", id="hub"),
        pytest.param("file://", "not a source", id="file without a path"),
        pytest.param("pypi://package/model.onnx", "not a source", id="no version"),
        pytest.param("pypi://package>=1.0/model.onnx", "not a source", id="version not pinned"),
        pytest.param("pypi://package==1.0", "not a source", id="no path"),
        pytest.param("pypi://package==1.0/a\n--index-url", "not a source", id="line break"),
        pytest.param("pypi://-r==1.0/model.onnx", "not a source", id="package like an option"),
        pytest.param("pypi://package==1.0/../../etc/passwd", "'..'", id="path leads out"),
        pytest.param("pypi://package==1.0//etc/passwd", "plain", id="absolute path"),
        pytest.param("pypi://package==1.0/data/", "plain", id="path of a folder"),
        pytest.param("pypi://package==1.0/a\\b", "not a source", id="backslash"),
    ],
)
def test_source_that_cannot_be_meant_is_refused_with_what_is_allowed(text, word):
    with pytest.raises(ConfigurationError, match=word):
        parse_source(text)
