"""Weights that exist only as a pickle."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from app.core.errors import CannotLoad
from app.preparing.job import PrepareJob
from app.preparing.pickled import UnpickleJob, unpickle, unpickle_apart
from tests.hub import checkpoints


def read(source: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    unpickle(UnpickleJob(str(source), str(out)), lambda news: None)
    return out


def test_weights_come_out_as_they_were(tmp_path):
    source = checkpoints.tiny_roberta(tmp_path / "in", weights="pickle")
    out = read(source, tmp_path)
    before = torch.load(source / "pytorch_model.bin", weights_only=True)
    after = load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    with safe_open(out / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_shared_and_transposed_tensors_are_written_apart(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": whole, "b": whole, "c": whole.T}, tmp_path / "pytorch_model.bin")
    after = load_file(read(tmp_path, tmp_path) / "model.safetensors")
    assert torch.equal(after["a"], after["b"])
    assert torch.equal(after["c"], whole.T)


def test_files_of_an_older_torch_are_read(tmp_path):
    """Before 1.6 they were no archives, which cannot be mapped into memory."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert load_file(read(tmp_path, tmp_path) / "model.safetensors")["a"].tolist() == [1, 1]


def test_shards_stay_shards(tmp_path):
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for number, name in enumerate(names):
        torch.save({f"w{number}": torch.full((2,), float(number))}, tmp_path / name)
    table = {"w0": names[0], "w1": names[1]}
    checkpoints.write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": table})
    out = read(tmp_path, tmp_path)
    assert load_file(out / "model-00002-of-00002.safetensors")["w1"].tolist() == [1, 1]
    assert "model-00001-of-00002" in (out / "model.safetensors.index.json").read_text()


class Greeting:
    """Unpickling it would call a function of the attacker's choice."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "bare pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, is_archive):
    source, marker = tmp_path / "in", tmp_path / "was-run"
    source.mkdir()
    content = {"a": torch.ones(2), "b": Greeting(marker)}
    if is_archive:
        torch.save(content, source / "pytorch_model.bin")
    else:
        (source / "pytorch_model.bin").write_bytes(
            pickle.dumps({"b": Greeting(marker)}, protocol=2)
        )
    with pytest.raises(CannotLoad, match="refused, nothing of it was run: it wants to use .*mkdir"):
        unpickle_apart(source, tmp_path)
    assert not marker.exists()
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no pytorch_model.bin"),
        (b"nonsense", "pytorch_model.bin cannot be read|is refused"),
        ([1, 2], "not a table of names and tensors"),
        ({"state_dict": {"a": torch.ones(1)}}, "not a table of names and tensors"),
    ],
    ids=["missing", "damaged", "a list", "nested"],
)
def test_what_is_not_a_table_of_tensors_is_said(tmp_path, content, reason):
    path = tmp_path / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CannotLoad, match=reason):
        read(tmp_path, tmp_path)


def test_the_errand_reads_a_pickle_and_tells_its_steps(tmp_path):
    """The whole way in its own processes, as the server has it done."""
    source, out = tmp_path / "in", tmp_path / "out"
    checkpoints.tiny_roberta(source, weights="pickle", tokenizer_json=True)
    out.mkdir()
    job = PrepareJob(
        source_folder=str(source),
        out_folder=str(out),
        kind="scores",
        task="classify",
        runtime="torch_reference",
        format="pickle",
        precision="fp32",
    )
    done = subprocess.run(
        [sys.executable, "-m", "app.preparing"],
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        check=True,
    )
    first, *_, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["what"] == "reading the pickle in a process of its own"
    assert last["result"]["files"]["model"] == "model"
    assert (out / "model" / "model.safetensors").is_file()
    assert (out / "manifest.json").is_file()
