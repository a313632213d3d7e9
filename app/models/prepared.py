"""Prepared checkpoints: made once from what a publisher laid out, kept in the store, served from.

    prepared/<key>/manifest.json and the files it names     whole, or not there
    revisions/<key>                                         what a tag or branch was resolved to
    locks/ temp/                                            one maker per key; unfinished work

The key is a hash of everything that shapes the result: the commit or the files' sizes and times,
kind, runtime, precision, and the pinned tools (toolchain.py). The making itself is an errand in a
process of its own (app/preparing), so that PyTorch never enters the server.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import msgspec
import structlog

from app.core.checkpoint import Manifest
from app.core.errands import News
from app.core.errors import CannotLoad, FileUnavailable
from app.models.drafts import Drafts
from app.models.errands import Errands
from app.models.hub import Hub
from app.models.keys import key_of
from app.models.locks import locked
from app.models.planned import Origin, Planned, Wanted, origin_of, plan_for
from app.models.prepared_folder import Prepared, read_prepared
from app.models.resources import require_disk, require_memory
from app.models.revisions import Revisions
from app.models.sources import HfSource, parse_checkpoint_source
from app.models.spec import Checkpoint
from app.models.toolchain import TOOLCHAIN
from app.preparing.job import PrepareJob
from app.preparing.plan import Plan

FORMAT = "2"  # raise it when the same job would give another result
NO_TOOLS = (
    "preparing it needs PyTorch and the converters of requirements-hub.txt: run `make hub`, build "
    "the image with WITH_HUB=1, or prepare it elsewhere and copy MODEL_STORE"
)
Tell = Callable[[str], None]
_log = structlog.get_logger(__name__)


class PreparedStore:
    """Its methods block: call them from a thread; `stop` ends them from anywhere."""

    def __init__(self, root: Path, hub: Hub, errands: Errands, threads: int) -> None:
        self.root = root
        self._hub = hub
        self._errands = errands
        self._threads = threads
        self._revisions = Revisions(root / "revisions")
        self._drafts = Drafts(root / "temp")

    def stop(self) -> None:
        """End what is being fetched or prepared, and refuse more."""
        self._errands.stop()

    def find(self, wanted: Wanted) -> Prepared | None:
        """What is there already, without a look at the network; None where that cannot be known."""
        source = parse_checkpoint_source(wanted.checkpoint.source)
        if not isinstance(source, HfSource):
            try:
                return read_prepared(self._folder(wanted, origin_of(source.path).identity))
            except FileUnavailable:
                return None
        return self._find_commit(wanted, source.revision) if source.is_pinned else None

    def plan(self, wanted: Wanted) -> Planned:
        """What preparing would take. Raises CannotLoad or FileUnavailable."""
        origin = self._origin(wanted)
        return plan_for(wanted, origin.listing, origin.commit)

    def seek(self, wanted: Wanted) -> Prepared | Origin:
        """What is prepared already, or else what it is to be made of; makes nothing.

        A hub is asked what a tag or branch means; where it cannot be, what was meant last counts.
        Raises CannotLoad or FileUnavailable.
        """
        found = self.find(wanted)
        if found is None:
            try:
                origin = self._origin(wanted)
            except FileUnavailable as error:
                found = self._find_last_meant(wanted, error)
            else:
                found = read_prepared(self._folder(wanted, origin.identity), origin.commit)
                if found is None:
                    return origin
                self._revisions.remember(wanted.checkpoint.source, origin.commit)
        _refuse_below_the_bar(wanted.checkpoint, found.manifest)
        return found

    def make(self, wanted: Wanted, origin: Origin, tell: Tell) -> Prepared:
        """Fetched, prepared and checked. Raises CannotLoad or FileUnavailable with the reason.

        tell: is called with what is being done, in words.
        """
        made = self._make(wanted, origin, tell)
        self._revisions.remember(wanted.checkpoint.source, origin.commit)
        _refuse_below_the_bar(wanted.checkpoint, made.manifest)
        return made

    def bring(self, wanted: Wanted, tell: Tell) -> Prepared:
        """Sought, and made where it is not there."""
        sought = self.seek(wanted)
        return self.make(wanted, sought, tell) if isinstance(sought, Origin) else sought

    def _find_last_meant(self, wanted: Wanted, reason: FileUnavailable) -> Prepared:
        commit = self._revisions.commit_of(wanted.checkpoint.source)
        found = self._find_commit(wanted, commit) if commit else None
        if found is None:
            raise reason
        _log.warning("revision_not_resolved", served=commit, reason=str(reason))
        return found

    def _origin(self, wanted: Wanted) -> Origin:
        source = parse_checkpoint_source(wanted.checkpoint.source)
        if not isinstance(source, HfSource):
            return origin_of(source.path)
        described = self._hub.describe(source)
        origin = Origin(described.listing, (described.commit,), described.commit)
        if described.unreachable is not None:
            try:
                plan_for(wanted, origin.listing, origin.commit)
            except CannotLoad as refusal:  # the cache has a part: the hub would have the rest
                raise described.refusal(source, refusal) from refusal
        return origin

    def _make(self, wanted: Wanted, origin: Origin, tell: Tell) -> Prepared:
        folder = self._folder(wanted, origin.identity)
        planned = plan_for(wanted, origin.listing, origin.commit)
        plan = planned.plan
        if plan.needs_torch and find_spec("torch") is None:
            raise CannotLoad(NO_TOOLS)
        try:
            with self._only_maker_of(folder.name, tell):
                found = read_prepared(folder, origin.commit)
                if found is not None:
                    return found  # another process made it while this one waited
                self._drafts.clear(folder.name)
                self._require_room(plan)
                source = origin.folder or self._fetch(wanted.checkpoint, plan, tell)
                self._require_room(plan)  # what was fetched may lie on the same disk
                manifest = self._prepare(wanted, planned, source, folder, tell)
        except OSError as error:
            raise CannotLoad(f"the store {self.root} cannot be used: {error}") from error
        return Prepared(manifest, folder, origin.commit)

    def _require_room(self, plan: Plan) -> None:
        require_disk(self.root, plan.prepared_bytes + plan.draft_bytes, "the prepared files")
        require_memory(plan.prepare_memory_bytes, "preparing it")

    def _fetch(self, checkpoint: Checkpoint, plan: Plan, tell: Tell) -> Path:
        source = parse_checkpoint_source(checkpoint.source)
        if not isinstance(source, HfSource):
            raise CannotLoad(f"{checkpoint.source} is not in a hub")
        tell(f"fetching {checkpoint.source}, {plan.download_bytes / 1e6:.0f} MB")
        return self._hub.fetch(source, allow_pickle=checkpoint.allow_pickle).folder

    def _prepare(
        self, wanted: Wanted, planned: Planned, source: Path, folder: Path, tell: Tell
    ) -> Manifest:
        def on_news(news: News) -> None:
            step = f" ({news.done} of {news.total})" if news.total else ""
            tell(f"preparing: {news.what}{step}")
            _log.info("preparing", source=wanted.checkpoint.source, step=news.what)

        with self._drafts.begin(folder.name) as draft:
            job = PrepareJob(
                source_folder=str(source),
                out_folder=str(draft.folder),
                kind=wanted.kind,
                task=wanted.task,
                runtime=planned.runtime,
                format=planned.plan.format,
                precision=wanted.checkpoint.precision,
                max_tokens=wanted.checkpoint.max_tokens,
                threads=self._threads,
                source=wanted.checkpoint.source,
            )
            result = self._errands.run("app.preparing", job, on_news, _environment(draft.scratch))
            manifest = msgspec.convert(result, Manifest)
            draft.publish(folder)
        return manifest

    def _folder(self, wanted: Wanted, identity: tuple[object, ...]) -> Path:
        checkpoint = wanted.checkpoint
        repository = checkpoint.source.partition("@")[0]
        key = key_of(
            [
                FORMAT,
                repository,
                *identity,
                wanted.kind,
                wanted.task if wanted.kind == "scores" else "",
                checkpoint.runtime,
                checkpoint.precision,
                checkpoint.max_tokens,
                sorted(TOOLCHAIN.items()),
            ]
        )
        return self.root / "prepared" / key

    def _find_commit(self, wanted: Wanted, commit: str) -> Prepared | None:
        return read_prepared(self._folder(wanted, (commit,)), commit)

    def _only_maker_of(self, key: str, tell: Tell) -> AbstractContextManager[None]:
        return locked(
            self.root / "locks" / f"{key}.lock",
            is_stopped=lambda: self._errands.is_stopped,
            on_wait=lambda: tell("another process is preparing it"),
            stopped=CannotLoad("the server is stopping"),
        )


def _environment(scratch: Path) -> dict[str, str]:
    """Of the process that prepares: no look at the network, scratch files inside the store."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**os.environ, **offline, "TOKENIZERS_PARALLELISM": "false", "TMPDIR": str(scratch)}


def _refuse_below_the_bar(checkpoint: Checkpoint, manifest: Manifest) -> None:
    parity = manifest.parity
    if parity is None or parity.has_passed or checkpoint.accept_parity:
        return
    raise CannotLoad(
        "the prepared files differ too much from the original: "
        f"{'; '.join(parity.failed)} (over {parity.inputs} inputs); choose another precision, or "
        "say `accept_parity: true` in the catalog to serve them all the same"
    )
