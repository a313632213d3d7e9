"""Checkpoints from a hub: the real client in a child process, against a real server on loopback."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from app.core.errors import CannotLoad, FileUnavailable, will_pass
from app.models.errands import Errands
from app.models.hub import Hub
from app.models.progress import Moved
from app.models.sources import HfSource
from tests.process.hub_server import HubServer
from tests.processes import until

REPO = "owner/tiny-classifier"
MAIN = HfSource(REPO, "main")
WEIGHTS_PLACE = f"{REPO}/model.safetensors"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
CONFIG = {"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"]}
NEEDED = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": WEIGHTS,
}
LITTER = {
    "README.md": b"# A model",
    "pytorch_model.bin": b"a pickle",
    "tf_model.h5": b"of another library",
    "onnx/model.onnx": b"a copy",
}


class Listed:
    """Progress into a list: the name, then each (done, total)."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.names: list[str] = []

    def transfer(self, name: str) -> AbstractContextManager[Moved]:
        @contextmanager
        def shown() -> Iterator[Moved]:
            self.names.append(name)
            yield lambda done, total: self.seen.append((done, total))

        return shown()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "served") as server:
        server.add(REPO, NEEDED | LITTER)
        yield server


@pytest.fixture
def progress() -> Listed:
    return Listed()


@pytest.fixture
def hub(server, progress, tmp_path, monkeypatch, no_child_left) -> Hub:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return Hub(Errands(), progress)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home/hub/models--owner--tiny-classifier"


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def leftovers(cache: Path) -> list[Path]:
    return [path for path in (cache / "blobs").glob("*") if "incomplete" in path.name]


def largest_part(cache: Path) -> int:
    """Bytes of it; what is complete meanwhile bears another name and no longer counts."""
    largest = 0
    for path in leftovers(cache):
        with suppress(FileNotFoundError):
            largest = max(largest, path.stat().st_size)
    return largest


# --- What is asked and fetched


def test_description_says_what_is_there_and_fetches_only_the_config(hub, server):
    description = hub.describe(MAIN)
    assert description.commit == server.commit(REPO)
    assert description.listing.config == CONFIG
    assert description.listing.files == {
        name: len(content) for name, content in (NEEDED | LITTER).items()
    }
    assert description.unreachable is None
    assert server.asked() == [REPO, f"{REPO}/config.json"]


def test_needed_files_come_into_the_clients_cache_and_no_others(hub, server, cache, progress):
    fetched = hub.fetch(MAIN, allow_pickle=False)
    assert fetched.commit == server.commit(REPO)
    assert fetched.folder == cache / "snapshots" / fetched.commit
    assert contents(fetched.folder) == NEEDED
    assert {name: file.bytes for name, file in fetched.files.items()} == {
        name: len(content) for name, content in NEEDED.items()
    }
    assert all(len(file.digest) in {40, 64} for file in fetched.files.values())
    places = {request.place for request in server.requests}
    assert places == {REPO, *(f"{REPO}/{name}" for name in NEEDED)}
    assert leftovers(cache) == []


def test_progress_counts_bytes_up_to_the_whole(hub, progress):
    hub.fetch(MAIN, allow_pickle=False)
    total = sum(map(len, NEEDED.values()))
    assert progress.names == [str(MAIN)]
    assert progress.seen == sorted(progress.seen)
    assert progress.seen[-1] == (total, total)


def test_weights_come_last_so_that_weights_in_the_cache_mean_all_is_there(hub, server):
    hub.fetch(MAIN, allow_pickle=False)
    assert server.asked()[-1] == WEIGHTS_PLACE


def test_what_is_in_the_cache_is_not_fetched_again(hub, server):
    hub.fetch(MAIN, allow_pickle=False)
    server.requests.clear()
    fetched = hub.fetch(MAIN, allow_pickle=False)
    assert contents(fetched.folder) == NEEDED
    assert server.asked() == [REPO]


@pytest.mark.parametrize("revision", ["commit", "v1.0", "refs/pr/1"])
def test_revision_is_a_commit_a_tag_or_a_branch(hub, server, revision):
    if revision == "commit":
        revision = server.commit(REPO)
    else:
        server.name_revision(REPO, revision)
    fetched = hub.fetch(HfSource(REPO, revision), allow_pickle=False)
    assert fetched.commit == server.commit(REPO)


def test_shards_are_fetched_with_their_index(hub, server):
    shards = {f"model-0000{n}-of-00002.safetensors": bytes(n) for n in (1, 2)}
    index = {"model.safetensors.index.json": b"{}"}
    server.add("owner/sharded", shards | index)
    fetched = hub.fetch(HfSource("owner/sharded", "main"), allow_pickle=False)
    assert contents(fetched.folder) == shards | index


def test_pickle_alone_is_refused_before_it_is_fetched_unless_it_is_allowed(hub, server):
    server.add("owner/old", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
    source = HfSource("owner/old", "main")
    with pytest.raises(CannotLoad, match="hf://owner/old@main cannot be used.*allow_pickle") as no:
        hub.fetch(source, allow_pickle=False)
    assert not isinstance(no.value, FileUnavailable)
    assert "owner/old/pytorch_model.bin" not in server.asked()
    assert "pytorch_model.bin" in contents(hub.fetch(source, allow_pickle=True).folder)


def test_token_goes_to_the_hub_and_not_to_the_host_of_large_files(hub, server, monkeypatch):
    server.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.fetch(MAIN, allow_pickle=False)
    to_cdn = {request.authorization for request in server.requests if request.on_cdn}
    to_hub = {request.authorization for request in server.requests if not request.on_cdn}
    assert (to_cdn, to_hub) == ({None}, {"Bearer hf_secret"})


# --- Broken lines and wrong contents


def test_download_goes_on_from_where_the_line_broke(hub, server):
    server.cut(WEIGHTS_PLACE, at_byte=600_000, times=1)
    fetched = hub.fetch(MAIN, allow_pickle=False)
    assert contents(fetched.folder) == NEEDED
    first, second = server.ranges(WEIGHTS_PLACE)
    assert first is None
    assert second and 400_000 < int(second.removeprefix("bytes=").rstrip("-")) <= 600_000


def test_line_that_stays_broken_is_said_with_how_far_it_came_and_resumed_next_time(
    hub, server, cache
):
    server.cut(WEIGHTS_PLACE, at_byte=600_000)
    with pytest.raises(FileUnavailable, match=r"broke off after (\d+) of 1048576 bytes") as broken:
        hub.fetch(MAIN, allow_pickle=False)
    assert "goes on from there" in str(broken.value)
    assert will_pass(broken.value)
    (left,) = leftovers(cache)
    have = left.stat().st_size
    assert f"after {have} of" in str(broken.value)
    server.heal()
    server.requests.clear()
    assert contents(hub.fetch(MAIN, allow_pickle=False).folder) == NEEDED
    assert server.ranges(WEIGHTS_PLACE) == [f"bytes={have}-"]
    assert leftovers(cache) == []


@pytest.mark.parametrize("length", [len(WEIGHTS), 1000, len(WEIGHTS) + 1])
def test_wrong_content_is_refused_removed_and_right_the_next_time(hub, server, cache, length):
    server.serve_instead(WEIGHTS_PLACE, b"x" * length)
    with pytest.raises(FileUnavailable, match="model.safetensors came with.*not 1048576 bytes"):
        hub.fetch(MAIN, allow_pickle=False)
    assert leftovers(cache) == []
    server.heal()
    assert contents(hub.fetch(MAIN, allow_pickle=False).folder) == NEEDED


def test_small_files_are_verified_as_well(hub, server):
    server.serve_instead(f"{REPO}/tokenizer.json", b'{"version": "6.6"}')
    with pytest.raises(FileUnavailable, match="tokenizer.json came with"):
        hub.fetch(MAIN, allow_pickle=False)
    server.heal()
    assert contents(hub.fetch(MAIN, allow_pickle=False).folder) == NEEDED


def test_file_that_was_damaged_in_the_cache_is_fetched_again(hub, server):
    folder = hub.fetch(MAIN, allow_pickle=False).folder
    (folder / "model.safetensors").resolve().write_bytes(b"x" * len(WEIGHTS))
    server.requests.clear()
    assert contents(hub.fetch(MAIN, allow_pickle=False).folder) == NEEDED
    assert server.asked() == [REPO, WEIGHTS_PLACE]


def test_beginning_that_does_not_belong_to_the_file_is_dropped(hub, server, cache):
    digest = server.files(REPO)["model.safetensors"].sha256
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / f"{digest}.incomplete").write_bytes(b"x" * 5000)
    with pytest.raises(FileUnavailable, match="came with"):
        hub.fetch(MAIN, allow_pickle=False)
    assert contents(hub.fetch(MAIN, allow_pickle=False).folder) == NEEDED


# --- Refusals


@pytest.mark.parametrize(
    ("place", "status", "headers", "words"),
    [
        pytest.param(
            REPO,
            401,
            {"X_Error_Message": "Invalid username or password."},
            "401.*private, gated or misspelt; set HF_TOKEN",
            id="nobody may ask",
        ),
        pytest.param(
            WEIGHTS_PLACE,
            403,
            {"X_Error_Code": "GatedRepo"},
            "403.*ask for access at http.*set HF_TOKEN",
            id="gated",
        ),
        pytest.param(
            REPO,
            404,
            {"X_Error_Code": "RepoNotFound"},
            "there is no repository",
            id="no repository",
        ),
        pytest.param(
            WEIGHTS_PLACE,
            404,
            {"X_Error_Code": "EntryNotFound"},
            "no file 'model.safetensors' at revision main",
            id="no file",
        ),
        pytest.param(
            REPO, 429, {"Retry_After": "3600"}, "limits requests.*in 3600 s", id="limited for long"
        ),
    ],
)
def test_refusal_is_said_in_one_line_with_what_to_do(hub, server, place, status, headers, words):
    server.refuse(place, status, **headers)
    with pytest.raises(FileUnavailable, match=words) as refused:
        hub.fetch(MAIN, allow_pickle=False)
    assert "hf://owner/tiny-classifier@main is not available" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert will_pass(refused.value) == (status == 429)


def test_revision_that_is_not_there_is_no_missing_repository(hub):
    with pytest.raises(FileUnavailable, match="has no revision 'v9'"):
        hub.fetch(HfSource(REPO, "v9"), allow_pickle=False)


def test_token_is_never_in_an_error(hub, server, monkeypatch):
    server.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(FileUnavailable, match="to this token") as refused:
        hub.describe(MAIN)
    assert "hf_wrong" not in str(refused.value)


@pytest.mark.parametrize("place", [REPO, WEIGHTS_PLACE])
def test_limited_requests_are_repeated_after_the_time_that_the_hub_names(hub, server, place):
    server.refuse(place, 429, times=1, Retry_After="1")
    assert contents(hub.fetch(MAIN, allow_pickle=False).folder) == NEEDED


def test_hub_that_stumbles_is_asked_again(hub, server):
    server.refuse(REPO, 503, times=1)
    assert hub.describe(MAIN).commit == server.commit(REPO)


def test_disk_that_is_too_small_is_said_before_anything_large_is_fetched(hub, server, tmp_path):
    server.claim(WEIGHTS_PLACE, 10**15)
    with pytest.raises(FileUnavailable, match=r"1000000\.00 GB are still.*are free there") as full:
        hub.fetch(MAIN, allow_pickle=False)
    assert f"{tmp_path}/home" in str(full.value)
    assert WEIGHTS_PLACE not in server.asked()


def test_config_that_is_not_json_is_said(hub, server):
    server.add(REPO, {"config.json": b"<html>"})
    with pytest.raises(FileUnavailable, match="config.json is not JSON"):
        hub.describe(MAIN)


def test_something_that_is_no_hub_is_said(hub, server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/elsewhere")
    with pytest.raises(FileUnavailable, match="/elsewhere"):
        hub.describe(MAIN)


# --- Without the hub


@pytest.fixture(params=["set offline", "not there"])
def go_offline(request, server, monkeypatch):
    def go() -> None:
        if request.param == "set offline":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        else:
            server.stop()

    return go


def test_cached_checkpoint_is_found_without_the_hub(hub, go_offline):
    online = hub.fetch(MAIN, allow_pickle=False)
    go_offline()
    description = hub.describe(MAIN)
    assert description.unreachable
    assert description.listing.config == CONFIG
    offline = hub.fetch(MAIN, allow_pickle=False)
    assert (offline.folder, offline.commit) == (online.folder, online.commit)
    assert offline.files.keys() == online.files.keys()
    by_commit = hub.fetch(HfSource(REPO, online.commit), allow_pickle=False)
    assert by_commit.folder == online.folder


def test_checkpoint_without_a_config_is_found_by_its_branch_too(hub, server, monkeypatch):
    server.add("owner/gguf", {"tiny.gguf": b"GGUF"})
    source = HfSource("owner/gguf", "main")
    online = hub.fetch(source, allow_pickle=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.fetch(source, allow_pickle=False).folder == online.folder


def test_checkpoint_that_is_not_cached_needs_the_hub(hub, go_offline):
    go_offline()
    with pytest.raises(
        FileUnavailable, match="(HF_HUB_OFFLINE is set|cannot be reached).*nothing"
    ) as refused:
        hub.fetch(MAIN, allow_pickle=False)
    assert will_pass(refused.value) == ("cannot be reached" in str(refused.value))


def test_checkpoint_that_is_cached_in_part_needs_the_hub(hub, go_offline):
    hub.describe(MAIN)
    go_offline()
    with pytest.raises(
        FileUnavailable, match="of the copy in .*no weights.*holds: config.json"
    ) as refused:
        hub.fetch(MAIN, allow_pickle=False)
    assert will_pass(refused.value) == ("cannot be reached" in str(refused.value))


def test_link_whose_blob_has_gone_does_not_count_as_a_file(hub, monkeypatch):
    folder = hub.fetch(MAIN, allow_pickle=False).folder
    (folder / "model.safetensors").resolve().unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileUnavailable, match="no weights"):
        hub.fetch(MAIN, allow_pickle=False)


def test_hub_that_is_down_for_a_moment_does_not_matter_to_a_cached_checkpoint(hub, server):
    online = hub.fetch(MAIN, allow_pickle=False)
    server.refuse(REPO, 429, Retry_After="3600")
    assert hub.fetch(MAIN, allow_pickle=False).folder == online.folder


# --- Ends


def test_download_that_is_ended_in_the_middle_is_resumed_by_the_next_process(
    hub, server, progress, cache
):
    errands = Errands()
    server.hold(WEIGHTS_PLACE, at_byte=600_000)
    with ThreadPoolExecutor() as threads:
        ended = threads.submit(Hub(errands, progress).fetch, MAIN, allow_pickle=False)
        try:
            until(lambda: largest_part(cache) > 400_000, "a part", 30)
        finally:
            errands.stop()
        with pytest.raises(FileUnavailable, match="the server is stopping"):
            ended.result()
    (left,) = leftovers(cache)
    have = left.stat().st_size
    server.heal()
    server.requests.clear()
    assert contents(hub.fetch(MAIN, allow_pickle=False).folder) == NEEDED
    assert server.ranges(WEIGHTS_PLACE) == [f"bytes={have}-"]


def test_stopped_errands_ask_no_hub(server, progress, hub):
    errands = Errands()
    errands.stop()
    with pytest.raises(FileUnavailable, match="the server is stopping"):
        Hub(errands, progress).describe(MAIN)
    assert server.requests == []


def test_cache_that_cannot_be_written_is_said_with_its_folder(hub, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    with pytest.raises(FileUnavailable, match="HF_HOME"):
        hub.describe(MAIN)
