"""What a checkpoint is, told from its list of files and its config.json: nothing else is read.

`choose_files` says which of its files are needed, `make_plan` what will be made of them and what
that takes. Pure and light: the catalog check, the download and the prepare step all ask here.

    __init__.py   make_plan
    files.py      choose_files: which files, and what the weights come in
    families.py   what can be prepared for which kind and runtime
    sizes.py      estimates of disk and memory
"""

from dataclasses import dataclass

from app.core.checkpoint import Kind, Precision
from app.core.errors import CannotLoad
from app.preparing.job import Format
from app.preparing.plan.families import check_convertible, check_ready_made
from app.preparing.plan.files import CONVERTED, Listing, choose_files
from app.preparing.plan.sizes import sizes_of


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes are estimates, except download_bytes. prepared_bytes and prepare_memory_bytes are 0
    for files that are served as they lie. draft_bytes: on disk beside the result while it is made.
    """

    format: Format
    architecture: str
    files: tuple[str, ...]
    download_bytes: int
    prepared_bytes: int
    draft_bytes: int
    prepare_memory_bytes: int
    serve_memory_bytes: int
    needs_torch: bool


def make_plan(
    listing: Listing, *, kind: Kind, runtime: str, precision: Precision, allow_pickle: bool
) -> Plan:
    """What is fetched and made for this kind and runtime. Raises CannotLoad with the reason."""
    choice = choose_files(listing, allow_pickle=allow_pickle)
    config = listing.config or {}
    if precision == "int4" and kind != "tokens" and choice.format in CONVERTED:
        raise CannotLoad(f"precision int4 is for LLMs; what gives {kind} takes int8 or fp32")
    if choice.format in CONVERTED:
        architecture = check_convertible(config, kind, runtime)
    else:
        architecture = check_ready_made(choice.format, config, kind, runtime)
    weights_bytes = sum(listing.files[path] for path in choice.weights)
    sizes = sizes_of(choice.format, weights_bytes, config, runtime, precision)
    return Plan(
        format=choice.format,
        architecture=architecture,
        files=choice.paths,
        download_bytes=choice.download_bytes,
        prepared_bytes=sizes.prepared_bytes,
        draft_bytes=sizes.draft_bytes,
        prepare_memory_bytes=sizes.prepare_memory_bytes,
        serve_memory_bytes=sizes.serve_memory_bytes,
        needs_torch=choice.format in CONVERTED,
    )
