"""What crosses between the server and an errand to a hub."""

from typing import Any

from msgspec import Struct


class HubFile(Struct, frozen=True):
    """sha256: of files that the hub keeps outside git (weights). git_sha1: of the others, as git
    names them. Each is empty where the other one holds, and both where the hub was not asked."""

    bytes: int
    sha256: str = ""
    git_sha1: str = ""

    @property
    def digest(self) -> str:
        """Also the file's name among the cache's blobs, as the client gives it."""
        return self.sha256 or self.git_sha1


class DescribeJob(Struct, frozen=True, tag="describe"):
    repo: str
    revision: str


class Described(Struct, frozen=True):
    """folder and unreachable are set where the cache answered instead of the hub; passes: whether
    the hub may answer later."""

    commit: str
    files: dict[str, HubFile]
    config: dict[str, Any] | None
    folder: str = ""
    unreachable: str = ""
    passes: bool = False


class FetchJob(Struct, frozen=True, tag="fetch"):
    """files: in the order in which they are fetched, the weights last, so that weights in the
    cache mean that all the rest is there too. The result is the folder."""

    repo: str
    revision: str
    commit: str
    files: dict[str, HubFile]


Job = DescribeJob | FetchJob
