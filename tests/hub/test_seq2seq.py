"""CTranslate2's encoder-decoder beside transformers' `generate`, on the same float32 weights."""

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import BartForConditionalGeneration, AutoTokenizer

from app.core.errors import CannotLoad
from app.core.inference import Decoding
from app.core.parameters import resolve
from app.runtimes.base import StreamPlan
from app.runtimes.ctranslate2_seq2seq import CTranslate2Seq2Seq
from app.tasks.writing_parameters import SUMMARIZE, TRANSLATE
from app.workers.build import build_loop
from app.workers.messages import HostedVersion, ItemDone, Load, WireItem
from tests.fakes import Replies, lone_lease, served_by
from tests.hub.small_bart import END, FIRST_BYTE, PAD, START, save

pytestmark = [
    pytest.mark.timeout(120),
    # transformers makes its tokenizer of vocab.json and merges.txt in the old way
    pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0:DeprecationWarning"),
]

LIMIT = 40
BART = Decoding(
    max_tokens=LIMIT,
    min_tokens=12,
    beams=4,
    length_penalty=2.0,
    no_repeat_ngram=3,
    early_stopping=True,
    prefix=(START,),
)
GREEDY = Decoding(max_tokens=LIMIT, prefix=(START,))
SAMPLED = Decoding(max_tokens=LIMIT, temperature=1.0, top_p=0.95, top_k=50, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("bart")
    save(path)
    return path


@pytest.fixture(scope="module")
def original(folder):
    return BartForConditionalGeneration.from_pretrained(folder).eval()


def opened(folder: Path, precision="fp32", **options) -> CTranslate2Seq2Seq:
    files = {"model": str(folder / precision), "tokenizer": str(folder / "tokenizer.json")}
    options = {"max_tokens": 128, "decoder_start": END, "eos": END, "pad": PAD} | options
    return CTranslate2Seq2Seq(files, plan=StreamPlan(2, 1), precision=precision, **options)


@pytest.fixture(scope="module")
def runtime(folder) -> CTranslate2Seq2Seq:
    return opened(folder, forced_eos=END)


def documents(count: int) -> list[list[int]]:
    source = random.Random(1)
    lengths = [source.randrange(8, 60) for _ in range(count)]
    return [[START, *source.choices(range(FIRST_BYTE, 260), k=n), END] for n in lengths]


def reference(model, rows, decoding: Decoding, **options) -> list[tuple[int, ...]]:
    """Tokens that transformers writes, without marks; its end is forced at the limit."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])
    searching = (
        {"early_stopping": decoding.early_stopping, "length_penalty": decoding.length_penalty}
        if decoding.beams > 1
        else {}
    )
    with torch.no_grad():
        written = model.generate(
            ids,
            attention_mask=(ids != PAD).long(),
            do_sample=False,
            num_beams=decoding.beams,
            max_length=decoding.max_tokens + 1,
            min_length=decoding.min_tokens + 1,
            no_repeat_ngram_size=decoding.no_repeat_ngram,
            forced_bos_token_id=START,
            forced_eos_token_id=END,
            **searching,
            **options,
        )
    marks = {START, PAD, END}
    return [tuple(token for token in row if token not in marks) for row in written.tolist()]


def tokens(runtime, rows, decoding) -> list[tuple[int, ...]]:
    return [texts[0].token_ids for texts in runtime.run(rows, [decoding] * len(rows))]


@pytest.mark.parametrize("min_tokens", [0, 12])
@pytest.mark.parametrize("no_repeat_ngram", [0, 3])
def test_greedy_texts_are_those_of_transformers(original, runtime, min_tokens, no_repeat_ngram):
    decoding = Decoding(
        max_tokens=LIMIT,
        min_tokens=min_tokens,
        no_repeat_ngram=no_repeat_ngram,
        prefix=(START,),
    )
    rows = documents(100)

    expected = reference(original, rows, decoding)
    assert tokens(runtime, rows, decoding) == expected
    assert 10 < sum(len(row) < LIMIT - 2 for row in expected) < 90, "some end, some are cut"


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("no_repeat_ngram", [0, 3])
def test_beams_are_those_of_transformers_with_probabilities_that_sum_to_one(
    original, runtime, length_penalty, no_repeat_ngram
):
    """Of transformers as it is by default they are not where tokens were forbidden: see the
    module's docstring.
    """
    decoding = Decoding(
        max_tokens=LIMIT,
        min_tokens=12,
        beams=4,
        length_penalty=length_penalty,
        no_repeat_ngram=no_repeat_ngram,
        early_stopping=True,
        prefix=(START,),
    )
    rows = documents(100)

    expected = reference(original, rows, decoding, renormalize_logits=True)
    same = sum(a == b for a, b in zip(tokens(runtime, rows, decoding), expected, strict=True))
    assert same >= 98


def test_a_text_that_ends_says_so_and_one_that_is_cut_says_so(runtime):
    texts = [texts[0] for texts in runtime.run(documents(50), [GREEDY] * 50)]

    assert {text.finish_reason for text in texts} == {"stop", "length"}
    for text in texts:
        assert not {START, PAD, END} & set(text.token_ids)
        # Without the prefix and the forced end.
        assert (len(text.token_ids) == LIMIT - 2) == (text.finish_reason == "length")


def test_without_a_forced_end_the_limit_is_used_to_its_last_token(folder, runtime):
    free = opened(folder)
    rows = documents(50)
    cut = [len(t.token_ids) for (t,) in free.run(rows, [GREEDY] * 50) if t.finish_reason != "stop"]

    assert set(cut) == {LIMIT - 1}


def test_a_row_is_written_the_same_alone_and_beside_others(folder):
    runtime = opened(folder, precision="int8")
    rows = documents(12)
    together = tokens(runtime, rows, BART)

    assert [tokens(runtime, [row], BART)[0] for row in rows] == together


def test_streams_do_not_disturb_each_other(runtime):
    rows = documents(8)
    expected = [tokens(runtime, [row], BART)[0] for row in rows]

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda row: tokens(runtime, [row], BART)[0], rows * 4))
    assert found == expected * 4


def test_a_seed_gives_its_text_again_whoever_shares_the_batch(runtime):
    rows = documents(3)
    first = tokens(runtime, rows, SAMPLED)
    other = Decoding(max_tokens=LIMIT, temperature=1.0, top_p=0.95, top_k=50, seed=4)

    assert [tokens(runtime, [row], SAMPLED)[0] for row in rows] == first
    assert tokens(runtime, rows, other) != first


def test_settings_that_differ_are_run_apart(runtime):
    assert runtime.group_of(BART) == runtime.group_of(BART)
    assert len({runtime.group_of(each) for each in (BART, GREEDY, SAMPLED)}) == 3


def test_text_is_read_back_as_the_checkpoints_tokenizer_reads_it(folder, runtime):
    text = "Ça va ? It is n't over."
    (row,) = runtime.tokenizer.encode([text])
    theirs = AutoTokenizer.from_pretrained(folder)

    assert row == theirs.encode(text)
    assert runtime.tokenizer.decode(row) == theirs.decode(row, skip_special_tokens=True) == text
    assert runtime.tokenizer.special_tokens().items() >= {"<s>": START, "</s>": END}.items()


def test_spaces_are_closed_where_the_checkpoint_says_so(folder, tmp_path):
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": true}')
    shutil.copytree(folder / "fp32", tmp_path / "fp32")
    tokenizer = opened(tmp_path).tokenizer

    (row,) = tokenizer.encode(["It is n't over ."])
    assert tokenizer.decode(row) == "It isn't over."


def test_a_folder_that_names_no_start_token_begins_with_the_one_of_the_options(
    folder, runtime, tmp_path
):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path)
    shutil.copytree(folder / "fp32", tmp_path / "fp32")
    config = tmp_path / "fp32" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"decoder_start_token": None}))
    rows = documents(10)

    assert tokens(opened(tmp_path, forced_eos=END), rows, BART) == tokens(runtime, rows, BART)


def test_what_cannot_be_loaded_is_said(folder, tmp_path):
    with pytest.raises(CannotLoad, match="'int4' is not for CTranslate2"):
        opened(folder, precision="int4")
    with pytest.raises(
        CannotLoad, match="needs its tokenizer: a tokenizer.json or a sentencepieces.json"
    ):
        CTranslate2Seq2Seq(
            {"model": str(folder / "fp32")},
            plan=StreamPlan(1, 1),
            max_tokens=128,
            decoder_start=END,
            eos=END,
        )
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "fp32").mkdir()
    with pytest.raises(CannotLoad, match="holds no shared_vocabulary.json"):
        opened(tmp_path)
    shutil.copytree(folder / "fp32", tmp_path / "fp32", dirs_exist_ok=True)
    (tmp_path / "fp32" / "model.bin").write_bytes(b"no model")
    with pytest.raises(CannotLoad, match="CTranslate2 cannot read"):
        opened(tmp_path)


async def test_a_worker_summarizes_and_translates_with_one_copy_of_the_weights(folder, tmp_path):
    replies, calibration = Replies(), tmp_path / "calibration.json"
    generation = {"num_beams": 4, "min_length": 6, "max_length": LIMIT}
    load = Load(
        artefact="bart",
        files={"model": str(folder / "int8"), "tokenizer": str(folder / "tokenizer.json")},
        runtime="ctranslate2_seq2seq",
        kind="sequences",
        options={"max_tokens": 128, "decoder_start": END, "eos": END, "pad": PAD},
        versions=[
            HostedVersion("short:v1", "summarize", {"generation": generation}, {}),
            HostedVersion("french:v1", "translate", {"generation": generation}, {}),
        ],
        cpu_threads=2,
        max_batch_size=8,
        batch_timeout_ms=10,
        calibration_path=str(calibration),
        prepared_path="",
        log_format="console",
        log_level="WARNING",
    )
    work, facts = build_loop(load, lone_lease(2), replies, lambda _: None, nullcontext)
    long = "A sentence of forty characters or so. " * 12
    async with served_by(work):
        work.submit(
            [
                _item(1, "short:v1", "A text."),
                _item(2, "short:v1", long),
                _item(3, "short:v1", long, long_document="merge"),
                _item(4, "short:v1", long, truncate=True, num_beams=1),
                _item(5, "french:v1", "A text."),
                _item(6, "short:v1", "A text.", do_sample=True, seed=5),
            ]
        )
        done = [r for r in await replies.of(1, 2, 3, 4, 5, 6) if isinstance(r, ItemDone)]
        one, merged, cut, translated, drawn = done

    assert facts.max_tokens == 128
    assert calibration.is_file()
    assert replies.code_of(2) == "input_too_long"
    assert one.value and one.value == translated.value
    assert one.metadata["finish_reason"] in ("stop", "length")
    assert merged.metadata["chunks"] == 4
    assert cut.metadata["truncated"] is True and cut.input_tokens == 128
    assert drawn.metadata["seed"] == 5


def _item(number: int, version: str, text: str, **given) -> WireItem:
    declared = SUMMARIZE if version == "short:v1" else TRANSLATE
    return WireItem(number, version, text, resolve(declared, given), 60_000)
