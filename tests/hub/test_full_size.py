"""The three named architectures at their published size, random weights: `make test-hub-full`.

Built and prepared once below MODEL_STORE/benchmarks, as `make bench-hub` does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import transformers

from app.core.config import load_settings
from app.core.inference import Decoding, Sampling
from app.models.catalog import load_catalog
from app.models.planned import Wanted
from app.models.preparation import open_stores, wanted_by
from app.models.progress import LogProgress
from app.models.spec import Checkpoint
from app.runtimes.base import StreamPlan
from app.runtimes.catalogue import runtime_class
from benchmarks.harness import running_server, texts_of_lognormal_length
from benchmarks.hub import text_of_tokens, through_batches, write_catalog
from tests.e2e.serving import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MOST_RESIDENT_BYTES = 1.6 * 2**30
PLAN = StreamPlan(1, 2)


@pytest.fixture(scope="module")
def catalog() -> Path:
    return write_catalog(load_settings().model_store / "benchmarks")


@pytest.fixture(scope="module")
def fp32(catalog):
    """The runtime over a checkpoint's float32 files, and the checkpoint's own folder."""
    stores = open_stores(load_settings(), LogProgress())
    wanted = dict(zip(("sentiment", "generator", "summarizer"), _wanted(catalog), strict=True))

    def load(name: str) -> tuple[Any, Path]:
        source = wanted[name].checkpoint.source
        checkpoint = Checkpoint(source, precision="fp32", accept_parity=True)
        found = stores.checkpoints.bring(
            Wanted(checkpoint, wanted[name].kind, wanted[name].task), print
        )
        make = runtime_class(found.manifest.runtime, found.manifest.kind)
        runtime = make(found.files, plan=PLAN, **found.manifest.runtime_options)
        return runtime, Path(source.removeprefix("file://"))

    return load


def _wanted(catalog: Path) -> tuple[Wanted, ...]:
    return wanted_by(load_catalog(catalog))


def tokenizer_of(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_roberta_base_gives_the_scores_of_transformers(fp32):
    runtime, folder = fp32("sentiment")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = tokenizer_of(folder)
    rows = [tokenizer(text).input_ids for text in texts_of_lognormal_length(8, seed=3)]
    for row, ours in zip(rows, runtime.run(rows, [None] * len(rows)), strict=True):
        with torch.inference_mode():
            theirs = model(input_ids=torch.tensor([row])).logits[0].numpy()
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_gpt2_continues_greedily_as_transformers_does(fp32):
    runtime, folder = fp32("generator")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = tokenizer_of(folder)
    prompts = [tokenizer(text_of_tokens(tokenizer, 16, seed)).input_ids for seed in range(4)]
    for number, prompt in enumerate(prompts):
        runtime.add(number, prompt, Sampling(max_new_tokens=50))
    finished: dict[int, Any] = {}
    while len(finished) < len(prompts):
        finished |= runtime.step().finished
    for number, prompt in enumerate(prompts):
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=50, do_sample=False, pad_token_id=50256
        )[0, len(prompt) :]
        assert list(finished[number][0].token_ids) == theirs.tolist()


def test_bart_large_writes_the_beams_of_transformers(fp32):
    runtime, folder = fp32("summarizer")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = tokenizer_of(folder)
    rows = [tokenizer(text_of_tokens(tokenizer, 200, seed)).input_ids for seed in range(3)]
    decoding = Decoding(
        max_tokens=40,
        min_tokens=20,
        beams=4,
        length_penalty=2.0,
        no_repeat_ngram=3,
        early_stopping=True,
        prefix=(0,),
    )
    for row, ours in zip(rows, runtime.run(rows, [decoding] * len(rows)), strict=True):
        theirs = model.generate(torch.tensor([row]), min_length=21, max_length=41)[0].tolist()
        special = {0, 1, 2}
        assert list(ours[0].token_ids) == [token for token in theirs if token not in special]


@pytest.fixture(scope="module")
def server(catalog) -> Iterator[ServerProcess]:
    """Started once more, because what a first start measures needs memory of its own."""
    settings = {"MODEL_CATALOG": catalog, "WORKER_START_TIMEOUT_S": 600, "ready_s": 900.0}
    with running_server(**settings):
        pass
    with running_server(**settings) as server:
        yield server


def test_the_three_stay_small_and_without_torch_while_they_serve(server):
    texts = texts_of_lognormal_length(64, seed=4)
    through_batches(server.url, "sentiment", texts, {}, 64)
    through_batches(server.url, "generator", texts[:32], {"max_new_tokens": 50}, 32)
    through_batches(server.url, "summarizer", texts[:8], {"max_length": 40, "min_length": 10}, 8)
    process = psutil.Process(server.process.pid)
    serving = [process, *process.children(recursive=True)]
    assert len(serving) == 4
    resident = sum(each.memory_info().rss for each in serving)
    assert resident < MOST_RESIDENT_BYTES, f"{resident / 2**20:.0f} MiB"
    for each in serving:
        assert not [m.path for m in each.memory_maps() if "libtorch" in m.path]
