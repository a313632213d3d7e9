"""What a checkpoint is to become, what it is made from, and for which runtime. Reads no weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from app.core.checkpoint import Kind
from app.core.errors import CannotLoad, FileUnavailable
from app.models.spec import Checkpoint
from app.preparing.plan import Plan, make_plan
from app.preparing.plan.files import Listing
from app.runtimes.catalogue import PREFERRED


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checkpoint and what it is to become. task: of the first version that uses it."""

    checkpoint: Checkpoint
    kind: Kind
    task: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What will be made of a checkpoint, and for which runtime."""

    plan: Plan
    runtime: str
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the files lie or will lie. identity: what they are, for the key."""

    listing: Listing
    identity: tuple[object, ...]
    commit: str = ""
    folder: Path | None = None  # None: has to be fetched


def origin_of(folder: Path) -> Origin:
    """A folder on this machine. Its files count as other ones once a size or time has changed.

    Raises FileUnavailable when it is no folder, CannotLoad for a config.json that is no JSON.
    """
    if not folder.is_dir():
        raise FileUnavailable(f"{folder} is not a folder")
    found = {
        str(path.relative_to(folder)): path.stat()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    listing = Listing({name: stat.st_size for name, stat in found.items()}, _config_of(folder))
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found.items()]
    return Origin(listing, (str(folder), files), folder=folder)


def plan_for(wanted: Wanted, listing: Listing, commit: str) -> Planned:
    """For the runtime that was asked for, or the first preferred one that takes the checkpoint."""
    checkpoint = wanted.checkpoint
    refused: CannotLoad | None = None
    for runtime in (checkpoint.runtime,) if checkpoint.runtime else PREFERRED[wanted.kind]:
        try:
            plan = make_plan(
                listing,
                kind=wanted.kind,
                runtime=runtime,
                precision=checkpoint.precision,
                allow_pickle=checkpoint.allow_pickle,
            )
            return Planned(plan, runtime, commit)
        except CannotLoad as error:
            refused = error
    raise refused or CannotLoad(f"no runtime loads {wanted.kind}")


def _config_of(folder: Path) -> Mapping[str, Any] | None:
    try:
        config: Mapping[str, Any] = msgspec.json.decode(
            (folder / "config.json").read_bytes(), type=dict[str, Any]
        )
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise CannotLoad(f"{folder / 'config.json'} cannot be read: {error}") from error
    return config
