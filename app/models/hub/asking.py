"""What a repository holds: asked of the hub, or told from the cache where the hub is not there."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name

from app.core.errands import Tell
from app.core.errors import CannotLoad, FileUnavailable, UnavailableForNow
from app.models.hub.jobs import Described, DescribeJob, HubFile
from app.models.hub.reasons import LIMITED, Subject, in_words, patiently, reason_of, refusal_for

TIMEOUT_S = 15.0
MAX_CONFIG_BYTES = 4_000_000
_COMMIT = re.compile(r"[0-9a-f]{40}")


def describe(job: DescribeJob, tell: Tell) -> Described:
    """Raises FileUnavailable. Where the hub cannot be asked, what the cache has is described."""
    about = Subject(job.repo, job.revision)
    with in_words(about):
        try:
            return _from_hub(job, tell)
        except (httpx.TransportError, OfflineModeIsEnabled, HfHubHTTPError) as error:
            if not _is_unreachable(error):
                raise
            return _from_cache(job, reason_of(error, about), refusal_for(error))


def cache_folder(repo: str) -> Path:
    """Where the client keeps `blobs`, `refs` and `snapshots` of a repository."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _is_unreachable(error: Exception) -> bool:
    """As opposed to: it answered, and the answer is no."""
    if not isinstance(error, HfHubHTTPError):
        return True
    return error.response.status_code >= 500 or error.response.status_code == LIMITED


def _from_hub(job: DescribeJob, tell: Tell) -> Described:
    api = HfApi()
    found = patiently(
        lambda: api.model_info(
            job.repo, revision=job.revision, files_metadata=True, timeout=TIMEOUT_S
        ),
        tell,
    )
    # It becomes the name of a folder.
    if not isinstance(found.sha, str) or not _COMMIT.fullmatch(found.sha):
        raise FileUnavailable(f"the hub names no commit for revision {job.revision!r}")
    files = {
        sibling.rfilename: HubFile(
            bytes=sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else "",
            git_sha1="" if sibling.lfs else sibling.blob_id or "",
        )
        for sibling in found.siblings or ()
    }
    config = None
    if "config.json" in files:
        if files["config.json"].bytes > MAX_CONFIG_BYTES:
            raise CannotLoad(f"its config.json has more than {MAX_CONFIG_BYTES} bytes")
        # By the revision as it was given: so the cache learns what commit it means.
        path = patiently(
            lambda: hf_hub_download(job.repo, "config.json", revision=job.revision), tell
        )
        config = _read_config(Path(path))
    return Described(found.sha, files, config)


def _from_cache(job: DescribeJob, unreachable: str, refusal: type[FileUnavailable]) -> Described:
    home = cache_folder(job.repo)
    commit = job.revision
    if not _COMMIT.fullmatch(commit):
        reference = home / "refs" / job.revision
        commit = reference.read_text("utf-8").strip() if reference.is_file() else ""
    folder = home / "snapshots" / commit
    if not commit or not folder.is_dir():
        raise refusal(
            f"{unreachable}; and the cache {constants.HF_HUB_CACHE} (HF_HOME) holds nothing of "
            f"{job.repo} at revision {job.revision}"
        )
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): HubFile(path.stat().st_size) for path in paths}
    config = _read_config(folder / "config.json") if "config.json" in files else None
    passes = refusal is UnavailableForNow
    return Described(commit, files, config, str(folder), unreachable, passes)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CannotLoad(f"its config.json is not JSON: {error}") from None
    if not isinstance(config, Mapping):
        raise CannotLoad("its config.json holds no names and values")
    return dict(config)
