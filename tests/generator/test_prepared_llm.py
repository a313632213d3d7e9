"""The generator's model as it is kept between starts, on the real file."""

import os
from pathlib import Path

import pytest

from app.core.errors import CannotLoad
from app.core.inference import Sampling
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_paged import OpenVinoLlm
from app.runtimes.openvino_llm_files import PREPARED_FILES

pytestmark = pytest.mark.timeout(180)


def continuation(generator_file: str, prepared: Path | None) -> str:
    runtime = OpenVinoLlm(
        {"model": generator_file}, plan=StreamPlan(1, 2), prepared=prepared, max_tokens=512
    )
    (prompt,) = runtime.tokenizer.encode(["The future of AI is"])
    runtime.add(1, prompt, Sampling(max_new_tokens=12))
    while not (finished := runtime.step().finished):
        pass
    return runtime.decode(finished[1][0].token_ids)


def test_a_prepared_model_says_what_its_file_says_and_a_damaged_one_is_made_again(
    tmp_path: Path, generator_file: str
) -> None:
    prepared = tmp_path / "store" / "prepared"
    abandoned = prepared.parent / "unfinished-long-ago"
    abandoned.mkdir(parents=True)
    os.utime(abandoned, (0, 0))

    from_file = continuation(generator_file, prepared)
    assert {path.name for path in prepared.iterdir()} >= set(PREPARED_FILES)
    assert [path.name for path in prepared.parent.iterdir()] == ["prepared"]
    assert continuation(generator_file, prepared) == from_file

    (prepared / "openvino_model.xml").write_text("<net")
    assert continuation(generator_file, prepared) == from_file
    assert (prepared / "openvino_model.xml").stat().st_size > 10_000


def test_a_store_that_cannot_be_written_costs_no_more_than_time(
    tmp_path: Path, generator_file: str
) -> None:
    (tmp_path / "file").write_text("not a folder")

    assert continuation(generator_file, tmp_path / "file" / "prepared")


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))

    with pytest.raises(CannotLoad, match="broken.gguf"):
        OpenVinoLlm({"model": str(broken)}, plan=StreamPlan(1, 1), max_tokens=512)
