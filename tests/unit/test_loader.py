"""Which versions share a worker, and what the worker is told. Nothing is fetched or started."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from app.core.checkpoint import Manifest
from app.core.clock import MonotonicClock
from app.core.config import Settings
from app.core.errors import CannotLoad, FileUnavailable
from app.core.metrics import Metrics
from app.models.loader import Fleet, build_fleet, group_by_artefact
from app.models.planned import Origin, Wanted
from app.models.preparation import Stores
from app.models.prepared import PreparedStore
from app.models.prepared_folder import Prepared
from app.models.spec import Artefact, Checkpoint, ModelFile, ModelSpec
from app.models.store import ModelStore
from app.preparing.plan.files import Listing
from app.workers.messages import HostedVersion, Load
from app.workers.status import ServingState
from app.workers.means import Preparation
from tests.fakes import GUARD_S, a_spec, until

HEAD = ModelFile("head", "file://head.json", "1" * 64, 10)
SPECS = [
    a_spec("summarizer:v1", "summarize", runtime_options={"max_tokens": 256}),
    a_spec("generator:v1", "generate", artefact="smollm"),
    a_spec(
        "sentiment:v1",
        "classify",
        runtime_options={"max_tokens": 256},
        task_options={"labels": ["a", "b"]},
        task_files=(HEAD,),
    ),
]


class HasFiles:
    """A store whose files are all there, except for those that are missing."""

    root = Path("/store")

    def __init__(self, *missing: str) -> None:
        self.missing = missing
        self.fetched: list[str] = []

    def problem(self, file: ModelFile) -> str | None:
        return "is not there yet"

    def fetch(self, file: ModelFile) -> Path:
        if file.source in self.missing:
            raise FileUnavailable(f"{file.source} is missing")
        self.fetched.append(file.source)
        return self.root / "files" / file.source.removeprefix("file://")

    def stop(self) -> None:
        pass


class HasCheckpoints:
    """A store whose checkpoint is prepared, or cannot be.

    by_tag: only its hub can tell that it is the one that is wanted.
    """

    def __init__(self, prepared: Prepared | None = None, *, by_tag: bool = False) -> None:
        self.prepared = prepared
        self.by_tag = by_tag

    def find(self, wanted: Wanted) -> Prepared | None:
        return None if self.by_tag else self.prepared

    def seek(self, wanted: Wanted) -> Prepared | Origin:
        return self.prepared or Origin(Listing({}), ("0a" * 20,))

    def make(self, wanted: Wanted, origin: Origin, tell: Callable[[str], None]) -> Prepared:
        tell("looking at it")
        raise CannotLoad(f"{wanted.checkpoint.source} as {wanted.kind} cannot be had")

    def stop(self) -> None:
        pass


def settings_of(**values: Any) -> Settings:
    return Settings(_env_file=None, **{"cpu_threads": 2, **values})  # type: ignore[call-arg]


def fleet_of(
    specs: list[ModelSpec],
    store: HasFiles | None = None,
    checkpoints: HasCheckpoints | None = None,
    **values: Any,
) -> Fleet:
    stores = Stores(
        cast(ModelStore, store or HasFiles()),
        cast(PreparedStore, checkpoints or HasCheckpoints()),
    )
    return build_fleet(specs, stores, settings_of(**values), Metrics(), MonotonicClock())


def ignore(what: str) -> None:
    """Nobody listens to how far it is."""


async def prepared(
    specs: list[ModelSpec],
    store: HasFiles | None = None,
    checkpoints: HasCheckpoints | None = None,
    **values: Any,
) -> Preparation:
    """What the first worker would be told."""
    supervisor, *_ = fleet_of(specs, store, checkpoints, **values).supervisors
    return await supervisor._prepare(ignore)


async def loaded(specs: list[ModelSpec], **values: Any) -> Load:
    return (await prepared(specs, **values)).load


def test_versions_of_one_artefact_share_a_worker_in_the_order_of_the_catalog():
    groups = group_by_artefact(SPECS)

    assert [[spec.key for spec in group] for group in groups] == [
        ["summarizer:v1", "sentiment:v1"],
        ["generator:v1"],
    ]


@pytest.mark.parametrize(
    "other",
    [
        a_spec("b:v1", artefact="another"),
        a_spec("b:v1", runtime_options={"max_tokens": 128}),
        ModelSpec("b", "v1", "embed", a_spec("b:v1").artefact, "another_runtime"),
    ],
    ids=["artefact", "options", "runtime"],
)
def test_what_differs_in_weights_runtime_or_options_does_not_share(other):
    assert len(group_by_artefact([a_spec("a:v1"), other])) == 2


def test_the_order_of_runtime_options_makes_no_difference():
    one = a_spec("a:v1", runtime_options={"x": 1, "y": 2})
    other = a_spec("b:v1", runtime_options={"y": 2, "x": 1})

    assert len(group_by_artefact([one, other])) == 1


async def test_the_registry_keeps_the_order_of_the_catalog_and_shares_supervisors():
    fleet = fleet_of(SPECS)
    summarizer, generator, sentiment = fleet.registry

    assert [d.spec for d in (summarizer, generator, sentiment)] == SPECS
    assert summarizer.supervisor is sentiment.supervisor is not generator.supervisor
    assert [supervisor.name for supervisor in fleet.supervisors] == ["minilm", "smollm"]


async def test_building_a_fleet_fetches_and_starts_nothing():
    store = HasFiles()
    fleet = fleet_of(SPECS, store)

    assert store.fetched == []
    assert {d.supervisor.status.state for d in fleet.registry} == {ServingState.LOADING}
    assert fleet.unanswered == 0


async def test_versions_that_start_unloaded_are_told_apart_by_their_state():
    fleet = fleet_of([replace(SPECS[0], load=False), SPECS[2]])
    summarizer, sentiment = fleet.registry

    states = [d.supervisor.state_of(d.spec.key)[0] for d in (summarizer, sentiment)]
    assert states == [ServingState.UNLOADED, ServingState.LOADING]


async def test_a_worker_is_told_all_its_versions_and_where_their_files_are():
    load = await loaded(SPECS, max_batch_size=5, batch_timeout_ms=7.5, log_format="json")

    assert (load.artefact, load.runtime) == ("minilm", "runtime")
    assert load.files == {"model": "/store/files/minilm.bin"}
    assert load.options == {"max_tokens": 256}
    assert load.versions == [
        HostedVersion("summarizer:v1", "summarize", {}, {}),
        HostedVersion(
            "sentiment:v1", "classify", {"labels": ["a", "b"]}, {"head": "/store/files/head.json"}
        ),
    ]
    assert (load.cpu_threads, load.max_batch_size, load.batch_timeout_ms) == (2, 5, 7.5)
    assert (load.log_format, load.log_level) == ("json", "info")


async def test_a_version_whose_own_file_is_missing_fails_alone():
    preparation = await prepared(SPECS, HasFiles("file://head.json"))

    assert [version.key for version in preparation.load.versions] == ["summarizer:v1"]
    assert preparation.refused == {"sentiment:v1": "file://head.json is missing"}


async def test_a_missing_file_that_all_need_fails_the_worker():
    with pytest.raises(FileUnavailable, match="minilm.bin is missing"):
        await prepared(SPECS, HasFiles("file://minilm.bin"))


async def test_a_worker_without_any_version_left_is_not_started():
    with pytest.raises(FileUnavailable, match="head.json is missing"):
        await prepared([SPECS[2]], HasFiles("file://head.json"))


@pytest.mark.parametrize("spec", [SPECS[1], a_spec("iris:v1", "tensors")], ids=lambda s: s.task)
async def test_steps_and_tensors_have_nothing_to_calibrate(spec):
    assert (await loaded([spec])).calibration_path == ""


async def test_a_calibration_is_kept_in_the_store_and_found_again():
    first, again = await loaded(SPECS), await loaded(SPECS)

    assert first.calibration_path == again.calibration_path
    assert Path(first.calibration_path).parent == Path("/store/calibration")


OTHER_FILE = ModelFile("model", "file://minilm.bin", "2" * 64, 1000)


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (a_spec("a:v1"), {"cpu_threads": 1}),
        (a_spec("a:v1"), {"max_batch_size": 9}),
        (a_spec("a:v1", runtime_options={"max_tokens": 9}), {}),
        (ModelSpec("a", "v1", "embed", Artefact("minilm", (OTHER_FILE,)), "runtime"), {}),
        (ModelSpec("a", "v1", "embed", a_spec("a:v1").artefact, "another"), {}),
    ],
    ids=["threads", "batch size", "options", "files", "runtime"],
)
async def test_what_shapes_a_measurement_gives_it_another_key(spec, values):
    assert (await loaded([spec], **values)).calibration_path != (
        await loaded([a_spec("a:v1")])
    ).calibration_path


async def test_what_does_not_shape_a_measurement_leaves_its_key():
    usual = await loaded([a_spec("a:v1")])
    other = await loaded([a_spec("b:v7")], batch_timeout_ms=1.0, log_level="debug")

    assert usual.calibration_path == other.calibration_path


async def test_files_are_fetched_one_after_the_other():
    """Each download has the whole line; two at once would only both be late."""
    running = 0

    class Watches(HasFiles):
        def fetch(self, file: ModelFile) -> Path:
            nonlocal running
            running += 1
            assert running == 1
            path = super().fetch(file)
            running -= 1
            return path

    store = Watches()
    fleet = fleet_of(SPECS, store)
    await asyncio.gather(*(supervisor._prepare(ignore) for supervisor in fleet.supervisors))
    assert len(store.fetched) == 3


MANIFEST = Manifest(
    kind="tokens",
    runtime="openvino_llm",
    architecture="GPT2LMHeadModel",
    precision="int8",
    files={"model": ".", "tokenizer": "tokenizer.json"},
    runtime_options={"max_tokens": 1024, "precision": "int8"},
    generation={"do_sample": True},
    size_bytes=125_000_000,
)
GPT2 = Prepared(MANIFEST, Path("/store/prepared/123"), "0a" * 20)


def a_checkpoint(key: str = "generator:v1", **fields: Any) -> ModelSpec:
    checkpoint = Checkpoint(f"hf://org/gpt2@{'0a' * 20}")
    name, _, version = key.partition(":")
    artefact = Artefact("gpt2", checkpoint=checkpoint)
    return ModelSpec(name, version, "generate", artefact, "openvino_llm", "tokens", **fields)


async def test_a_prepared_checkpoint_is_loaded_as_its_manifest_says():
    load = await loaded([a_checkpoint()], checkpoints=HasCheckpoints(GPT2))

    assert (load.runtime, load.kind) == ("openvino_llm", "tokens")
    assert load.files["tokenizer"] == "/store/prepared/123/tokenizer.json"
    assert load.options == {"max_tokens": 1024, "precision": "int8"}
    assert load.versions == [
        HostedVersion("generator:v1", "generate", {"generation": {"do_sample": True}}, {})
    ]


async def test_options_of_the_catalog_win_over_those_of_the_checkpoint():
    spec = a_checkpoint(
        runtime_options={"max_tokens": 64}, task_options={"generation": {"do_sample": False}}
    )
    load = await loaded([spec], checkpoints=HasCheckpoints(GPT2))

    assert load.options == {"max_tokens": 64, "precision": "int8"}
    assert load.versions[0].options == {"generation": {"do_sample": False}}


async def test_what_is_known_of_a_checkpoint_is_shown():
    facts = (await prepared([a_checkpoint()], checkpoints=HasCheckpoints(GPT2))).facts

    assert facts["commit"] == "0a" * 20
    assert (facts["architecture"], facts["size_bytes"]) == ("GPT2LMHeadModel", 125_000_000)
    assert "parity" not in facts


async def test_a_checkpoint_that_cannot_be_had_fails_its_versions():
    with pytest.raises(CannotLoad, match="as tokens cannot be had"):
        await prepared([a_checkpoint()])


async def test_a_tag_that_is_prepared_does_not_wait_for_what_is_being_fetched():
    begun, gate = threading.Event(), threading.Event()

    class Slow(HasFiles):
        def fetch(self, file: ModelFile) -> Path:
            begun.set()
            assert gate.wait(GUARD_S)
            return super().fetch(file)

    checkpoints = HasCheckpoints(GPT2, by_tag=True)
    fleet = fleet_of([SPECS[0], a_checkpoint()], Slow(), checkpoints)
    slow, tagged = fleet.supervisors
    fetching = asyncio.ensure_future(slow._prepare(ignore))
    await until(begun.is_set)

    async with asyncio.timeout(GUARD_S / 2):
        assert (await tagged._prepare(ignore)).load.runtime == "openvino_llm"
    assert not fetching.done()
    gate.set()
    await fetching


async def test_a_hub_is_asked_one_question_at_a_time():
    asking = 0

    class Watches(HasCheckpoints):
        def seek(self, wanted: Wanted) -> Prepared | Origin:
            nonlocal asking
            asking += 1
            assert asking == 1
            sought = super().seek(wanted)
            asking -= 1
            return sought

    specs = [a_checkpoint(f"generator:v{number}") for number in range(3)]
    specs = [replace(spec, artefact=replace(spec.artefact, name=spec.key)) for spec in specs]
    fleet = fleet_of(specs, checkpoints=Watches(GPT2, by_tag=True))

    assert len(fleet.supervisors) == 3
    await asyncio.gather(*(supervisor._prepare(ignore) for supervisor in fleet.supervisors))
