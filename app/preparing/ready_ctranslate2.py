"""CTranslate2 folders that are served as they lie: what the converter left of the checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from app.core.errors import CannotLoad
from app.preparing.facts import Facts, architecture_of
from app.preparing.folder import read_json, read_object
from app.preparing.generation import generation_defaults, one_id
from app.preparing.job import PrepareJob
from app.preparing.lengths import longest_input
from app.preparing.tokenizing import codes_of
from app.runtimes.sentencepieces import FILE_NAME, Pieces

MODELS = ("source.spm", "target.spm")  # as OPUS-MT's archives and the hub's Marians name them


def ctranslate2_facts(job: PrepareJob, source: Path) -> Facts:
    """The converter's config.json replaces the checkpoint's, and names tokens by their text."""
    config = read_object(source, "config.json")
    generation = generation_defaults(source, config)
    tokens = _numbered(_tokens(source, "target"))
    ids: dict[str, int | None] = {}
    for name, key, text in (
        ("decoder_start", "decoder_start_token", config.get("decoder_start_token")),
        ("eos", "eos_token", config.get("eos_token")),
        ("pad", "pad_token", config.get("pad_token", "<pad>")),
    ):
        number = one_id(generation, f"{name}_token_id")
        number = tokens.get(str(text)) if number is None else number
        if number is None and name != "pad":
            raise CannotLoad(
                f"neither generation_config.json nor config.json's {key} names a token"
            )
        ids[name] = ids["eos"] if number is None else number
    longest = longest_input(source, config, job.max_tokens)
    options = {"max_tokens": longest, "precision": job.precision, **ids}
    forced = one_id(generation, "forced_eos_token_id")
    if forced is not None:
        options["forced_eos"] = forced
    return Facts(architecture_of(config), options, {}, generation)


def is_sentencepieces(job: PrepareJob, source: Path) -> bool:
    """Whether the folder brings SentencePiece models in place of a tokenizer.json."""
    return job.format == "ctranslate2" and all((source / name).is_file() for name in MODELS)


def write_pieces(job: PrepareJob, source: Path) -> str:
    """The name of the file in the job's out_folder; the models stay where they are."""
    config = read_object(source, "config.json")
    reading, writing = (_tokens(source, side) for side in ("source", "target"))
    numbers = _numbered(reading)
    end, unknown = (str(config.get(key)) for key in ("eos_token", "unk_token"))
    if missing := [token for token in (end, unknown) if token not in numbers]:
        raise CannotLoad(f"config.json names tokens that are no source tokens: {missing}")
    pieces = Pieces(
        source_model=str(source / MODELS[0]),
        target_model=str(source / MODELS[1]),
        source=reading,
        target=writing,
        head=[],
        # The library adds it where its folder says so.
        tail=[] if config.get("add_source_eos") else [numbers[end]],
        unknown=numbers[unknown],
        special={end: numbers[end], unknown: numbers[unknown], **codes_of(reading)},
    )
    (Path(job.out_folder) / FILE_NAME).write_bytes(msgspec.json.encode(pieces))
    return FILE_NAME


def _tokens(source: Path, side: str) -> list[str]:
    """By id, as the runtime reads them. Raises CannotLoad."""
    names = ("shared_vocabulary.json", f"{side}_vocabulary.json")
    for name in names:
        tokens = read_json(source, name)
        if isinstance(tokens, list):
            return tokens
    raise CannotLoad(f"the checkpoint has no {' or '.join(names)} with a list of tokens")


def _numbered(tokens: list[str]) -> Mapping[str, int]:
    return {token: number for number, token in enumerate(tokens)}
