"""Another server that answers for us: how a catalog names it, and what it is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta, Struct

DONE = b"[DONE]"  # the last event of a stream that is whole
_Count = Annotated[int, Meta(ge=1, le=1024)]
_Name = Annotated[str, Meta(min_length=1, max_length=512)]


class UpstreamOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`runtime_options` of an artefact whose runtime is `upstream`.

    base_url: that of its OpenAI-compatible API, mostly ending in `/v1`. model: its name there.
    api_key_env: the environment variable that holds the key; None: no key is sent.
    max_concurrent: most requests that are there at once; others wait their turn here.
    max_retries: how often a request is sent again that it did not begin to answer.
    health_interval_s: how often it is asked whether it serves. max_answer_bytes: of one answer.
    """

    base_url: _Name
    model: _Name
    api_key_env: Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    max_concurrent: _Count = 32
    max_retries: Annotated[int, Meta(ge=0, le=10)] = 2
    health_interval_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    max_answer_bytes: Annotated[int, Meta(ge=1024, le=2**30)] = 8 * 2**20

    def __post_init__(self) -> None:
        try:
            url = urlsplit(self.base_url)
            is_whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            is_whole = False
        if not is_whole or not self.base_url.isascii() or not self.base_url.isprintable():
            raise ValueError("base_url must be like http://host:8000/v1")
        if url.username is not None or url.password is not None:
            raise ValueError("base_url must hold no user or key; name a variable in api_key_env")
        if url.query or url.fragment or " " in self.base_url:
            raise ValueError("base_url must end with its path, without `?` or `#`")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. path: below the base URL. body: without the name of the model.

    streams: the answer is to come as it is written.
    """

    path: str
    body: Mapping[str, Any]
    streams: bool = False
