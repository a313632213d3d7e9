"""What the store of prepared checkpoints finds, makes and refuses; hub and errands stand in."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from app.core.checkpoint import MANIFEST, Manifest, Parity
from app.core.errands import News
from app.core.errors import CannotLoad, FileUnavailable
from app.models.errands import Errands
from app.models.hub import Description, Fetched, Hub
from app.models.planned import Origin, Wanted
from app.models.prepared import PreparedStore
from app.models.prepared_folder import Prepared
from app.models.sources import HfSource
from app.models.spec import Checkpoint
from app.preparing.job import PrepareJob
from app.preparing.plan.files import Listing

OLD, NEW = "0a" * 20, "0b" * 20
LISTING = Listing({"openvino_model.xml": 1, "openvino_model.bin": 1, "tokenizer.json": 1})
TAGGED = Wanted(Checkpoint("hf://org/encoder@main"), "vectors", "embed")
MANIFEST_MADE = Manifest("vectors", "openvino_encoder", "BertModel", "int8", {"model": "model.xml"})


class HasOneCommit:
    """A hub; `commit` None: it cannot be reached."""

    def __init__(self, commit: str | None = OLD) -> None:
        self.commit = commit

    def describe(self, source: HfSource) -> Description:
        if self.commit is None:
            raise FileUnavailable("no route to the hub")
        return Description(self.commit, LISTING, {})

    def fetch(self, source: HfSource, *, allow_pickle: bool) -> Fetched:
        return Fetched(Path("/cache"), self.commit or "", {})


class Prepares:
    """Errands that leave a manifest and one file."""

    is_stopped = False

    def __init__(self, parity: Parity | None = None) -> None:
        self.manifest = msgspec.structs.replace(MANIFEST_MADE, parity=parity)
        self.jobs: list[PrepareJob] = []

    def run(
        self,
        module: str,
        job: PrepareJob,
        tell: Callable[[News], None],
        environment: Mapping[str, str],
    ) -> Any:
        self.jobs.append(job)
        tell(News("converting", 1, 2))
        for name, content in ((MANIFEST, msgspec.json.encode(self.manifest)), ("model.xml", b"<")):
            (Path(job.out_folder) / name).write_bytes(content)
        return msgspec.to_builtins(self.manifest)


def a_store(root: Path, hub: HasOneCommit, errands: Prepares) -> PreparedStore:
    return PreparedStore(root, cast(Hub, hub), cast(Errands, errands), threads=2)


@pytest.fixture
def hub() -> HasOneCommit:
    return HasOneCommit()


@pytest.fixture
def errands() -> Prepares:
    return Prepares()


@pytest.fixture
def store(tmp_path: Path, hub: HasOneCommit, errands: Prepares) -> PreparedStore:
    return a_store(tmp_path, hub, errands)


@pytest.fixture
def said() -> list[str]:
    return []


def test_seeking_makes_nothing(store, errands):
    sought = store.seek(TAGGED)

    assert isinstance(sought, Origin)
    assert sought.commit == OLD
    assert not errands.jobs


def test_what_was_made_is_whole_and_leaves_nothing_else(store, tmp_path, said):
    made = store.bring(TAGGED, said.append)

    assert (made.commit, made.manifest) == (OLD, MANIFEST_MADE)
    assert Path(made.files["model"]).read_bytes() == b"<"
    assert said == ["fetching hf://org/encoder@main, 0 MB", "preparing: converting (1 of 2)"]
    assert not list((tmp_path / "temp").iterdir())


def test_a_tag_is_found_again_once_the_hub_has_said_what_it_means(store, errands, said):
    made = store.bring(TAGGED, said.append)

    assert store.find(TAGGED) is None
    assert store.seek(TAGGED) == made == store.bring(TAGGED, said.append)
    assert len(errands.jobs) == 1


def test_a_tag_that_moved_is_made_anew(store, hub, errands, said):
    store.bring(TAGGED, said.append)
    hub.commit = NEW

    assert store.bring(TAGGED, said.append).commit == NEW
    assert len(errands.jobs) == 2


def test_without_a_hub_a_tag_means_what_it_meant_last(store, hub, said):
    made = store.bring(TAGGED, said.append)
    hub.commit = None

    assert store.seek(TAGGED) == made


def test_without_a_hub_a_tag_that_was_never_resolved_is_not_available(store, hub):
    hub.commit = None

    with pytest.raises(FileUnavailable, match="no route to the hub"):
        store.seek(TAGGED)


def test_a_commit_is_found_without_a_hub(store, hub, said):
    pinned = Wanted(Checkpoint(f"hf://org/encoder@{OLD}"), "vectors", "embed")
    made = store.bring(pinned, said.append)
    hub.commit = None

    assert store.find(pinned) == made


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{")])
def test_what_is_damaged_is_not_found_and_made_anew(store, errands, said, spoil):
    spoil(store.bring(TAGGED, said.append).folder / MANIFEST)

    assert isinstance(store.seek(TAGGED), Origin)
    assert isinstance(store.bring(TAGGED, said.append), Prepared)
    assert len(errands.jobs) == 2


def test_below_the_bar_is_refused_when_made_and_when_found(tmp_path, hub, said):
    parity = Parity(8, {"cosine": 0.5}, {"cosine": 0.9}, ["cosine is 0.5"])
    store = a_store(tmp_path, hub, Prepares(parity))

    for _ in range(2):
        with pytest.raises(CannotLoad, match="cosine is 0.5"):
            store.bring(TAGGED, said.append)
    accepted = Wanted(Checkpoint(TAGGED.checkpoint.source, accept_parity=True), "vectors", "embed")
    assert store.bring(accepted, said.append).manifest.parity == parity
