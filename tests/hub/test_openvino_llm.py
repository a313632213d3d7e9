"""The runtime for decoders on a tiny GPT-2 with random weights, beside transformers itself."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.intel")

import openvino as ov  # noqa: E402
from openvino_tokenizers import convert_tokenizer  # noqa: E402
from optimum.exporters.openvino import main_export  # noqa: E402
from tokenizers import ByteLevelBPETokenizer  # noqa: E402
from tokenizers.processors import TemplateProcessing  # noqa: E402

from app.core.errors import CannotLoad, InputTooLong  # noqa: E402
from app.core.inference import Generated, Sampling  # noqa: E402
from app.core.parameters import resolve  # noqa: E402
from app.runtimes.base import StreamPlan  # noqa: E402
from app.runtimes.openvino_paged import OpenVinoLlm  # noqa: E402
from app.runtimes.openvino_llm_files import BLOCK_TOKENS, SPARE_BLOCKS  # noqa: E402
from app.tasks.generate import Generate  # noqa: E402
from app.tasks.parameters import GENERATE  # noqa: E402

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore")]

CONTEXT = 96
KV_BYTES = 2 * 4 * 2 * 64  # 1 KiB: key and value, fp32, layers, width
NEW_TOKENS = 24
TEXTS = [
    "The future of AI is",
    "Once upon a time, in a land far away,",
    "é 日本 🙂",
    "x",
    "A bridge fell. Then another bridge fell, and the third one stood for many years after.",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a publisher lays it out."""
    folder = tmp_path_factory.mktemp("checkpoint")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS * 3, vocab_size=320, special_tokens=["<|endoftext|>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(5)
    config = transformers.GPT2Config(
        n_layer=2,
        n_head=4,
        n_embd=64,
        n_positions=CONTEXT,
        vocab_size=len(fast),
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.4,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "fp32"
    main_export(
        model_name_or_path=str(checkpoint),
        output=folder,
        task="text-generation-with-past",
        convert_tokenizer=False,
    )
    save_tokenizer(transformers.PreTrainedTokenizerFast.from_pretrained(checkpoint), folder)
    return folder


@pytest.fixture(scope="module")
def original(checkpoint: Path) -> Any:
    return transformers.GPT2LMHeadModel.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="module")
def runtime(fp32: Path) -> OpenVinoLlm:
    return load(fp32)


def save_tokenizer(fast: Any, folder: Path) -> None:
    tokenizer, detokenizer = convert_tokenizer(fast, with_detokenizer=True)
    ov.save_model(tokenizer, folder / "openvino_tokenizer.xml")
    ov.save_model(detokenizer, folder / "openvino_detokenizer.xml")


def load(folder: Path, *, precision: str = "fp32", **options: Any) -> OpenVinoLlm:
    return OpenVinoLlm(
        {"model": str(folder)},
        plan=StreamPlan(1, 2),
        max_tokens=CONTEXT,
        precision=precision,
        kv_bytes_per_token=KV_BYTES,
        **options,
    )


def copy_with(folder: Path, to: Path, **changed: Any) -> Path:
    """The same model, with some fields of its generation_config.json changed."""
    shutil.copytree(folder, to)
    path = to / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return to


def generate(
    runtime: OpenVinoLlm, prompts: Iterable[list[int]], *samplings: Sampling
) -> list[tuple[Generated, ...]]:
    """All prompts at once; one sampling for all, or one for each."""
    prompts = list(prompts)
    if len(samplings) == 1:
        samplings *= len(prompts)
    for number, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        runtime.add(number, prompt, sampling)
    done: dict[int, tuple[Generated, ...]] = {}
    while len(done) < len(prompts):
        done |= runtime.step().finished
    return [done[number] for number in range(len(prompts))]


def texts_of(model: Any, prompt: list[int], **settings: Any) -> list[list[int]]:
    """What transformers' generate writes after the prompt, ended as the checkpoint ends it."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            **{"do_sample": False, "max_new_tokens": NEW_TOKENS, **settings},
        )
    return [row[len(prompt) :].tolist() for row in made]


def only(outputs: Iterable[tuple[Generated, ...]]) -> list[list[int]]:
    return [list(first.token_ids) for (first,) in outputs]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
        ({"min_new_tokens": 20}, {"min_new_tokens": 20}),
        ({"beams": 3}, {"num_beams": 3}),
    ],
    ids=["greedy", "repetition penalty", "least tokens", "beams"],
)
def test_an_fp32_text_is_transformers_own_token_by_token(runtime, original, ours, theirs):
    prompts = runtime.tokenizer.encode(TEXTS)

    made = generate(runtime, prompts, Sampling(NEW_TOKENS, **ours))

    assert only(made) == [texts_of(original, prompt, **theirs)[0] for prompt in prompts]


def test_logprobs_are_torchs_own(runtime, original):
    (prompt,) = runtime.tokenizer.encode(TEXTS[:1])
    ((text,),) = generate(runtime, [prompt], Sampling(NEW_TOKENS, logprobs=4))
    with torch.inference_mode():
        logits = original(torch.tensor([[*prompt, *text.token_ids]])).logits[
            0, len(prompt) - 1 : -1
        ]
    expected = logits.log_softmax(-1)

    for said, token, row in zip(text.logprobs, text.token_ids, expected, strict=True):
        best = row.topk(4)
        assert said.logprob == pytest.approx(row[token].item(), abs=0.02)
        assert [token for token, _ in said.top] == best.indices.tolist()
        assert [value for _, value in said.top] == pytest.approx(best.values.tolist(), abs=0.02)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_seeded_text_is_the_same_alone_and_beside_others(fp32, int8, precision):
    runtime = load({"fp32": fp32, "int8": int8}[precision], precision=precision)
    prompts = runtime.tokenizer.encode(TEXTS * 4)
    kinds = [Sampling(NEW_TOKENS, temperature=1.0, seed=n) for n in range(len(prompts))]

    together = generate(runtime, prompts, *kinds)

    for prompt, kind, among in zip(prompts, kinds, together, strict=True):
        assert generate(runtime, [prompt], kind) == [among]


def test_requests_of_every_kind_share_a_batch_and_each_gets_its_own(runtime, original):
    (prompt,) = runtime.tokenizer.encode(TEXTS[:1])
    kinds = [
        Sampling(NEW_TOKENS),
        Sampling(NEW_TOKENS, repetition_penalty=1.7),
        Sampling(NEW_TOKENS, beams=3, sequences=2),
        Sampling(NEW_TOKENS, temperature=0.9, top_k=20, seed=3, sequences=2),
        Sampling(NEW_TOKENS, frequency_penalty=2.0),
        Sampling(NEW_TOKENS, presence_penalty=2.0),
    ]

    together = generate(runtime, [prompt] * len(kinds), *kinds)

    assert together == [generate(runtime, [prompt], kind)[0] for kind in kinds]
    assert [list(g.token_ids) for g in together[2]] == texts_of(
        original, prompt, num_beams=3, num_return_sequences=2
    )
    assert len({g.token_ids for texts in together for g in texts}) >= 6


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_greedy_text_is_the_same_alone_and_beside_others(fp32, int8, precision):
    runtime = load({"fp32": fp32, "int8": int8}[precision], precision=precision)
    prompts = runtime.tokenizer.encode(TEXTS)
    sampling = Sampling(NEW_TOKENS)

    together = generate(runtime, prompts, sampling)

    assert together == [generate(runtime, [prompt], sampling)[0] for prompt in prompts]


@pytest.fixture(scope="module")
def int8(fp32: Path) -> Path:
    import nncf

    folder = fp32.parent / "int8"
    shutil.copytree(fp32, folder)
    model = nncf.compress_weights(ov.Core().read_model(fp32 / "openvino_model.xml"))
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (folder / name).unlink()
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    return folder


def test_every_token_that_ends_a_text_for_the_checkpoint_ends_it(runtime, original, fp32, tmp_path):
    (prompt,) = runtime.tokenizer.encode(TEXTS[:1])
    ((whole,),) = generate(runtime, [prompt], Sampling(NEW_TOKENS))
    end = whole.token_ids[5]
    ending = load(copy_with(fp32, tmp_path / "ending", eos_token_id=[0, end]))

    ((text,),) = generate(ending, [prompt], Sampling(NEW_TOKENS))

    assert text.finish_reason == "stop"
    assert list(text.token_ids) == texts_of(original, prompt, eos_token_id=[0, end])[0]
    assert text.token_ids[-1] == end


def test_what_the_tokenizer_puts_in_front_is_put_in_front(checkpoint, fp32, tmp_path):
    fast = transformers.PreTrainedTokenizerFast.from_pretrained(checkpoint)
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    folder = copy_with(fp32, tmp_path / "bos")
    save_tokenizer(fast, folder)

    assert load(folder).tokenizer.encode(TEXTS) == [fast(text).input_ids for text in TEXTS]


def test_token_ids_are_those_of_the_checkpoints_tokenizer(checkpoint, runtime):
    fast = transformers.PreTrainedTokenizerFast.from_pretrained(checkpoint)
    texts = [*TEXTS, " lead", "two  spaces\n\n", "<|endoftext|> inside"]

    assert runtime.tokenizer.encode(texts) == [fast(text).input_ids for text in texts]


def test_a_text_far_over_the_context_is_refused_with_its_true_count(runtime):
    text = "The future of AI is " * 1000
    count = len(runtime.tokenizer.encode([text])[0])

    with pytest.raises(InputTooLong, match=f"text has {count} tokens, .* at most {CONTEXT - 1}"):
        Generate().prepare(text, resolve(GENERATE, {}), runtime.tokenizer)
    assert count > 5000


@pytest.mark.parametrize("length", [1, CONTEXT - 1], ids=["one token", "all but one"])
def test_a_prompt_may_have_any_length_below_the_context(runtime, original, length):
    prompt = [17 + n % 200 for n in range(length)]
    new = min(CONTEXT - length, NEW_TOKENS)

    made = generate(runtime, [prompt], Sampling(new))

    assert only(made) == texts_of(original, prompt, max_new_tokens=new)


def test_who_leaves_gives_back_the_room_in_the_cache_and_disturbs_nobody(runtime):
    long, short = runtime.tokenizer.encode(TEXTS[:2])
    expected = generate(runtime, [short], Sampling(NEW_TOKENS))[0]
    free = runtime._blocks.free
    runtime.add(7, long, Sampling(60, beams=4, min_new_tokens=60))
    runtime.add(8, short, Sampling(NEW_TOKENS))
    for _ in range(4):
        runtime.step()
    runtime.cancel(7)
    while not (finished := runtime.step().finished):
        pass

    assert finished == {8: expected}
    assert runtime._blocks.free == free
    assert not runtime.step().tokens


@pytest.mark.parametrize(
    "name", ["openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"]
)
def test_a_folder_without_one_of_its_files_is_refused_by_the_files_name(fp32, tmp_path, name):
    folder = copy_with(fp32, tmp_path / "incomplete")
    (folder / name).unlink()

    with pytest.raises(CannotLoad, match=f"lacks {name}$"):
        load(folder)


@pytest.mark.parametrize("fault", ["garbage", "no cache"])
def test_a_graph_that_is_no_decoder_is_refused_in_one_line(checkpoint, fp32, tmp_path, fault):
    folder = copy_with(fp32, tmp_path / "broken")
    if fault == "garbage":
        (folder / "openvino_model.xml").write_text("<net")
    else:
        main_export(
            model_name_or_path=str(checkpoint),
            output=folder,
            task="text-generation",
            convert_tokenizer=False,
        )

    with pytest.raises(CannotLoad, match="OpenVINO cannot read .*broken") as refusal:
        load(folder)
    assert "\n" not in str(refusal.value)


def test_the_cache_holds_what_it_was_given_and_too_small_a_cache_is_refused(fp32):
    with pytest.raises(CannotLoad, match="raise cache_mb"):
        load(fp32, cache_mb=2)
    assert load(fp32, cache_mb=3).tokenizer.max_tokens == CONTEXT
    assert (
        load(fp32, cache_mb=8).max_running_tokens
        == 8 * 2**20 // KV_BYTES - SPARE_BLOCKS * BLOCK_TOKENS
    )
