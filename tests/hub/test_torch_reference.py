"""The reference runtime beside transformers called plainly, on tiny checkpoints of true classes."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from app.core.errors import CannotLoad, ServingError
from app.core.inference import Decoding, Generated, Sampling
from app.core.parameters import resolve
from app.runtimes.base import StreamPlan
from app.runtimes.catalogue import kinds_of, runtime_class
from app.runtimes.torch_device import Placement, compute, place
from app.runtimes.torch_encoder import TorchScores, TorchVectors
from app.runtimes.torch_llm import TorchLlm
from app.runtimes.torch_seq2seq import TorchSeq2Seq
from app.tasks.catalogue import task_info
from app.workers.messages import HostedVersion
from tests.fakes import a_load
from tests.process.workers import Bench, value_of

BOS, PAD, EOS = 0, 1, 2
VOCABULARY = 259
MAX_TOKENS = 96
PLAN = StreamPlan(1, 1)
PROMPTS = [[72, 101, 108], [80] * 17, [5, 99, 42, 200, 7]]


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and <s> ... </s> around a text."""
    specials = ["<s>", "<pad>", "</s>"]
    names = specials + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({name: at for at, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def saved(folder: Path, model: Any, **generation: Any) -> dict[str, str]:
    """The checkpoint's files as they lie in the hub's layout."""
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return {"model": str(folder)}


def bert(folder: Path, kind: Any, model_type: str = "bert", **more: Any) -> dict[str, str]:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS + 2,
        initializer_range=0.3,
        pad_token_id=PAD,
        **more,
    )
    return saved(folder, kind.from_config(config))


def gpt2(folder: Path, kind: Any = transformers.GPT2LMHeadModel, **generation: Any):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "gpt2",
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=MAX_TOKENS,
        initializer_range=0.5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        num_labels=3,
    )
    return saved(folder, kind(config), **generation)


def bart(folder: Path, **generation: Any) -> dict[str, str]:
    torch.manual_seed(0)
    config: Any = transformers.AutoConfig.for_model(
        "bart",
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=MAX_TOKENS,
        init_std=0.4,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=generation.pop("forced_eos_token_id", None),
    )
    return saved(folder, transformers.BartForConditionalGeneration(config), **generation)


def until_end(row: list[int], ends: tuple[int, ...] = (EOS,)) -> list[int]:
    at = [i for i, token in enumerate(row) if token in ends]
    return row[: at[0]] if at else row


# Encoders


@pytest.mark.parametrize("model_type", ["roberta", "bert"])
def test_scores_are_the_logits_of_transformers_alone_and_beside_others(tmp_path, model_type):
    kind = transformers.AutoModelForSequenceClassification
    files = bert(tmp_path, kind, model_type, num_labels=3)
    runtime = TorchScores(files, plan=PLAN, max_tokens=MAX_TOKENS)
    rows = runtime.tokenizer.encode(["short", "a text that is a little longer", "x"])

    together = runtime.run(rows, [None] * 3)

    plain = kind.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = [plain(torch.tensor([row])).logits[0].numpy() for row in rows]
    assert together.dtype == np.float32 and together.shape == (3, 3)
    np.testing.assert_allclose(together, expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([runtime.run([row]) for row in rows]), expected)


def test_second_text_of_a_pair_has_the_second_type(tmp_path):
    kind = transformers.AutoModelForSequenceClassification
    runtime = TorchScores(bert(tmp_path, kind, num_labels=1), plan=PLAN, max_tokens=MAX_TOKENS)
    rows = [[0, 30, 31, 2, 40, 41, 2], [0, 30, 2]]

    scores = runtime.run(rows, [SimpleNamespace(second_from=4), None])

    plain = kind.from_pretrained(tmp_path).eval()
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        pair = plain(torch.tensor(rows[:1]), token_type_ids=types).logits[0]
        alone = plain(torch.tensor(rows[1:])).logits[0]
    np.testing.assert_allclose(scores, [pair.numpy(), alone.numpy()], atol=1e-5)
    assert abs(scores[0] - runtime.run(rows[:1])[0]) > 1e-3


def test_decoder_without_a_padding_token_scores_the_last_token_of_each_row(tmp_path):
    files = gpt2(tmp_path, transformers.GPT2ForSequenceClassification)
    runtime = TorchScores(files, plan=PLAN, max_tokens=MAX_TOKENS)
    plain = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path).eval()

    scores = runtime.run(PROMPTS, [None] * 3)

    with torch.no_grad():
        expected = [plain(torch.tensor([row])).logits[0].numpy() for row in PROMPTS]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_pooled_without_padding(tmp_path, pooling):
    """The checkpoint is that of a masked language model: it has no pooler, and needs none."""
    files = bert(tmp_path, transformers.AutoModelForMaskedLM, "roberta")
    runtime = TorchVectors(files, plan=PLAN, max_tokens=MAX_TOKENS, pooling=pooling)

    vectors = runtime.run(PROMPTS)

    plain = transformers.AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    for row, vector in zip(PROMPTS, vectors, strict=True):
        with torch.no_grad():
            states = plain(torch.tensor([row])).last_hidden_state[0]
        pooled = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        np.testing.assert_allclose(vector, pooled / pooled.norm(), atol=1e-5)


@pytest.mark.parametrize("plan", [StreamPlan(2, 1), StreamPlan(1, 2)], ids=["streams", "threads"])
def test_streams_run_side_by_side_with_the_threads_of_their_plan(tmp_path, plan):
    kind = transformers.AutoModelForSequenceClassification
    runtime = TorchScores(bert(tmp_path, kind), plan=plan, max_tokens=MAX_TOKENS)
    expected = runtime.run(PROMPTS)

    def work(_: int) -> tuple[int, Any]:
        scores = runtime.run(PROMPTS)
        return torch.get_num_threads(), scores

    with ThreadPoolExecutor(plan.streams) as streams:
        for threads, scores in streams.map(work, range(4)):
            assert threads == plan.threads
            np.testing.assert_allclose(scores, expected, atol=1e-5)


# Encoder-decoders

BEAMS = Decoding(
    max_tokens=20,
    min_tokens=8,
    beams=4,
    length_penalty=2.0,
    no_repeat_ngram=3,
    early_stopping=True,
    prefix=(BOS,),
)
BEAMS_AS_TRANSFORMERS_SAYS = {
    "max_new_tokens": 20,
    "min_new_tokens": 8,
    "num_beams": 4,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 3,
    "early_stopping": True,
    "forced_bos_token_id": BOS,
}
DECODINGS = [
    pytest.param(Decoding(max_tokens=12), {"max_new_tokens": 12}, id="greedy"),
    pytest.param(BEAMS, BEAMS_AS_TRANSFORMERS_SAYS, id="beams"),
    pytest.param(
        Decoding(max_tokens=12, repetition_penalty=1.7),
        {"max_new_tokens": 12, "repetition_penalty": 1.7},
        id="repetition",
    ),
]


def plainly(model: Any, row: list[int], **options: Any) -> list[int]:
    ids = torch.tensor([row])
    tokens: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[
        0
    ].tolist()
    return tokens


@pytest.mark.parametrize(("decoding", "options"), DECODINGS)
@pytest.mark.parametrize("forced_end", [None, EOS], ids=["free", "forced_end"])
def test_sequences_are_those_of_generate(tmp_path, decoding, options, forced_end):
    files = bart(tmp_path, forced_eos_token_id=forced_end)
    runtime = TorchSeq2Seq(files, plan=PLAN, max_tokens=MAX_TOKENS)
    model = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()

    together = runtime.run(PROMPTS, [decoding] * 3)

    for row, (text,) in zip(PROMPTS, together, strict=True):
        plain = plainly(model, row, **options)[1 + len(decoding.prefix) :]
        assert list(text.token_ids) == until_end(plain)
        assert runtime.run([row], [decoding]) == [(text,)]
        is_at_limit = len(decoding.prefix) + len(plain) == decoding.max_tokens
        assert text.finish_reason == ("length" if is_at_limit else "stop")


def test_text_that_ends_says_so_and_ends_there(tmp_path):
    files = bart(tmp_path)
    runtime = TorchSeq2Seq(files, plan=PLAN, max_tokens=MAX_TOKENS)
    ((long,),) = runtime.run(PROMPTS[:1], [Decoding(max_tokens=12)])
    end = long.token_ids[5]
    ending = TorchSeq2Seq(files, plan=PLAN, max_tokens=MAX_TOKENS, eos=end)

    ((short,),) = ending.run(PROMPTS[:1], [Decoding(max_tokens=12)])

    assert short == Generated(tuple(until_end(list(long.token_ids), (end,))), "stop")


def test_defaults_of_the_checkpoint_do_not_shape_what_a_request_asks_for(tmp_path):
    """generate() fills whatever its caller left open from generation_config.json."""
    plain, shaped = tmp_path / "plain", tmp_path / "shaped"
    defaults = BEAMS_AS_TRANSFORMERS_SAYS | {"max_length": 14, "min_length": 9, "num_beams": 3}
    del defaults["max_new_tokens"], defaults["min_new_tokens"]
    first = TorchSeq2Seq(bart(plain), plan=PLAN, max_tokens=MAX_TOKENS)
    second = TorchSeq2Seq(bart(shaped, **defaults), plan=PLAN, max_tokens=MAX_TOKENS)

    for decoding in (Decoding(max_tokens=16), Decoding(max_tokens=16, beams=2)):
        assert first.run(PROMPTS, [decoding] * 3) == second.run(PROMPTS, [decoding] * 3)


def test_long_prefix_is_begun_with_and_left_out(tmp_path):
    runtime = TorchSeq2Seq(bart(tmp_path), plan=PLAN, max_tokens=MAX_TOKENS)
    model = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()
    decoding = Decoding(max_tokens=10, prefix=(50, 60, 70))

    ((text,),) = runtime.run(PROMPTS[:1], [decoding])

    begun = torch.tensor([[EOS, 50, 60, 70]])
    plain = plainly(model, PROMPTS[0], max_new_tokens=7, decoder_input_ids=begun)
    assert list(text.token_ids) == until_end(plain[4:])


def test_seed_decides_what_is_drawn_whoever_is_beside(tmp_path):
    runtime = TorchSeq2Seq(bart(tmp_path), plan=PLAN, max_tokens=MAX_TOKENS)
    model = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()
    drawing: dict[str, Any] = {"temperature": 1.3, "top_p": 0.9, "top_k": 40}
    decoding = Decoding(max_tokens=12, seed=11, **drawing)
    before = torch.random.get_rng_state()

    together = runtime.run(PROMPTS, [decoding] * 3)

    assert torch.equal(torch.random.get_rng_state(), before)
    for row, (text,) in zip(PROMPTS, together, strict=True):
        torch.manual_seed(11)
        plain = plainly(model, row, max_new_tokens=12, do_sample=True, **drawing)
        assert list(text.token_ids) == until_end(plain[1:])
    other = Decoding(max_tokens=12, seed=12, **drawing)
    assert runtime.run(PROMPTS[:1], [other]) != together[:1]


# Decoders

BATCHINGS = pytest.mark.parametrize("batching", ["own", "manager"])


def continued(runtime: TorchLlm, *prompts: tuple[list[int], Sampling]) -> list[Any]:
    """All prompts, each a step after the one before it. Steps must tell of all texts in full."""
    finished: dict[int, tuple[Generated, ...]] = {}
    told: dict[int, dict[int, list[int]]] = {number: {} for number in range(len(prompts))}

    def step() -> None:
        outcome = runtime.step()
        finished.update(outcome.finished)
        for number, news in outcome.written.items():
            for each in news:
                told[number].setdefault(each.index, []).extend(each.token_ids)

    for number, (prompt, sampling) in enumerate(prompts):
        runtime.add(number, prompt, sampling)
        step()
    while len(finished) < len(prompts):
        step()
    for number, texts in finished.items():
        assert told[number] == {i: list(t.token_ids) for i, t in enumerate(texts) if t.token_ids}
    return [finished[number] for number in range(len(prompts))]


def llm(files: dict[str, str], **options: Any) -> TorchLlm:
    return TorchLlm(files, plan=PLAN, max_tokens=MAX_TOKENS, **options)


@BATCHINGS
def test_greedy_tokens_are_those_of_generate_for_prompts_that_join_one_by_one(tmp_path, batching):
    runtime = llm(gpt2(tmp_path), batching=batching)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()

    texts = continued(runtime, *((prompt, Sampling(15)) for prompt in PROMPTS))

    for prompt, (text,) in zip(PROMPTS, texts, strict=True):
        plain = plainly(model, prompt, max_new_tokens=15, pad_token_id=PAD)[len(prompt) :]
        assert list(text.token_ids) == until_end(plain)


@BATCHINGS
def test_drawn_tokens_are_those_of_generate_for_the_seed(tmp_path, batching):
    runtime = llm(gpt2(tmp_path), batching=batching)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    drawing: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "top_k": 50}
    sampling = Sampling(10, sequences=3, seed=5, **drawing)
    greedy = Sampling(10)

    texts = continued(runtime, (PROMPTS[0], sampling), (PROMPTS[1], greedy), (PROMPTS[0], sampling))

    ids = torch.tensor(PROMPTS[:1])
    torch.manual_seed(5)
    plain = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        max_new_tokens=10,
        num_return_sequences=3,
        pad_token_id=PAD,
        **drawing,
    )
    expected = [until_end(row[3:]) for row in plain.tolist()]
    assert [list(text.token_ids) for text in texts[0]] == expected
    assert texts[2] == texts[0]
    assert len(texts[1]) == 1


@BATCHINGS
def test_text_ends_at_its_end_token_a_stop_string_or_the_limit(tmp_path, batching):
    runtime = llm(gpt2(tmp_path / "long"), batching=batching)
    ((long,),) = continued(runtime, (PROMPTS[0], Sampling(20)))
    assert (len(long.token_ids), long.finish_reason) == (20, "length")

    stop = next(c for c in map(chr, range(33, 127)) if c in runtime.decode(long.token_ids))
    ((stopped,),) = continued(runtime, (PROMPTS[0], Sampling(20, stop=("no such", stop))))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == long.token_ids[: len(stopped.token_ids)]
    assert (
        runtime.decode(stopped.token_ids).index(stop) == len(runtime.decode(stopped.token_ids)) - 1
    )

    end = long.token_ids[7]
    ending = llm(gpt2(tmp_path / "short", eos_token_id=[EOS, end]), batching=batching)
    ((ended,),) = continued(ending, (PROMPTS[0], Sampling(20)))
    assert ended == Generated(tuple(until_end(list(long.token_ids), (end,))), "stop")


@BATCHINGS
def test_cancelled_prompt_leaves_and_the_others_stay(tmp_path, batching):
    runtime = llm(gpt2(tmp_path), batching=batching)
    alone = continued(runtime, (PROMPTS[1], Sampling(30)))
    runtime.add(100, PROMPTS[0], Sampling(80))
    runtime.add(101, PROMPTS[2], Sampling(80, temperature=1.0))
    runtime.step()
    runtime.cancel(100)
    runtime.cancel(101)

    assert continued(runtime, (PROMPTS[1], Sampling(30))) == alone


def test_manager_is_refused_for_layers_whose_room_it_does_not_know(tmp_path):
    config = transformers.AutoConfig.for_model(
        "mistral",
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=8,
    )
    files = saved(tmp_path, transformers.AutoModelForCausalLM.from_config(config))

    assert "use batching: own" in refusal(files, TorchLlm, batching="manager")
    assert continued(llm(files), (PROMPTS[1], Sampling(4)))


def test_room_for_tokens_follows_from_the_size_of_the_cache(tmp_path):
    files = gpt2(tmp_path)
    per_token = 2 * 2 * 32 * 4  # keys and values, layers, width, bytes

    assert llm(files, cache_gb=1000 * per_token / 2**30).max_running_tokens == 1000
    assert llm(files, cache_gb=1e-6).max_running_tokens == MAX_TOKENS, "one prompt always fits"
    assert llm(files, cache_gb=1.0).max_running_tokens == 64 * MAX_TOKENS, "more is of no use"


def test_prompt_is_taken_as_it_stands(tmp_path):
    runtime = llm(gpt2(tmp_path))

    (ids,) = runtime.tokenizer.encode(["Größe"])
    assert BOS not in ids and EOS not in ids
    assert runtime.decode([BOS, *ids, EOS]) == "Größe"


@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0:DeprecationWarning")  # transformers' own
def test_tokenizer_is_found_among_the_checkpoints_own_files(tmp_path):
    """Older checkpoints of GPT-2's kind have vocab.json and merges.txt, and no tokenizer.json."""
    files = gpt2(tmp_path)
    whole = llm(files).tokenizer.encode(["Größe 12"])
    vocabulary = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {"zz": VOCABULARY}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nz z\n")
    named = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 4, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    (tmp_path / "tokenizer.json").unlink()

    runtime = llm(files)

    assert runtime.tokenizer.encode(["Größe 12"]) == whole
    assert runtime.decode(whole[0]) == "Größe 12"


# What is refused


def test_every_kind_is_in_the_catalogue():
    assert {runtime_class("torch_reference", kind) for kind in kinds_of("torch_reference")} == {
        TorchScores,
        TorchVectors,
        TorchSeq2Seq,
        TorchLlm,
    }


def refusal(files: dict[str, str], make: Any = TorchScores, **options: Any) -> str:
    with pytest.raises(CannotLoad) as refused:
        make(files, plan=PLAN, max_tokens=MAX_TOKENS, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_head_that_is_not_in_the_checkpoint_is_refused(tmp_path):
    files = bert(tmp_path, transformers.AutoModelForMaskedLM)

    assert "missing, such as bert.pooler.dense.bias" in refusal(files)


def test_architecture_that_transformers_does_not_know_is_refused_by_name(tmp_path):
    files = bert(tmp_path, transformers.AutoModelForMaskedLM)
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "novelty"}
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert "novelty" in refusal(files)


def test_architecture_of_another_kind_is_refused(tmp_path):
    files = bert(tmp_path, transformers.AutoModelForMaskedLM)

    assert "AutoModelForSeq2SeqLM" in refusal(files, TorchSeq2Seq)


def test_decoder_without_attention_is_refused(tmp_path):
    config = transformers.AutoConfig.for_model(
        "mamba", vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1
    )
    files = saved(tmp_path, transformers.AutoModelForCausalLM.from_config(config))

    assert "mamba has no attention" in refusal(files, TorchLlm)


def test_code_beside_the_weights_is_not_run(tmp_path):
    files = gpt2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "novelty", "auto_map": {"AutoConfig": "novelty.Novelty"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "novelty.py").write_text("raise SystemExit('it ran')")

    assert str(tmp_path) in refusal(files, TorchLlm)


def test_damaged_weights_are_refused(tmp_path):
    files = bert(tmp_path, transformers.AutoModelForSequenceClassification)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])

    assert "cannot load" in refusal(files)


def test_weights_in_another_form_are_refused(tmp_path):
    files = bert(tmp_path, transformers.AutoModelForSequenceClassification)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")

    assert "no *.safetensors" in refusal(files)


def test_checkpoint_without_a_tokenizer_is_refused(tmp_path):
    files = bert(tmp_path, transformers.AutoModelForSequenceClassification)
    (tmp_path / "tokenizer.json").unlink()

    assert "has no file of a tokenizer" in refusal(files)
    assert "has no file of a tokenizer" in refusal(files, TorchLlm)


def test_options_that_do_not_exist_are_refused_with_those_that_do(tmp_path):
    files = gpt2(tmp_path)

    assert "use mean, cls, last" in refusal(files, TorchVectors, pooling="max")
    assert "use auto, own, manager" in refusal(files, TorchLlm, batching="best")
    assert "use auto, cpu, cuda" in refusal(files, TorchLlm, device="abacus")
    assert "use auto, float32" in refusal(files, TorchLlm, dtype="int3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_refused():
    with pytest.raises(CannotLoad, match="'cuda', but torch finds 0 CUDA GPUs"):
        place("cuda", "auto")
    assert place("auto", "auto") == Placement(torch.device("cpu"), torch.float32)


def test_batch_that_the_gpu_has_no_room_for_fails_and_the_next_one_runs():
    """With the real exception, raised by hand: no GPU is needed for what follows from it."""
    gpu = Placement(torch.device("cuda"), torch.bfloat16)

    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nDetails")

    with pytest.raises(ServingError, match="did not fit .* Tried to allocate 9 GiB.$"):
        compute(gpu, 1, too_large)
    assert compute(gpu, 1, lambda: "next") == "next"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_gpu_continues_as_the_cpu_does(tmp_path):
    files = gpt2(tmp_path)
    on_cpu = llm(files, device="cpu")
    on_gpu = llm(files, dtype="float32")
    asked = [(prompt, Sampling(15)) for prompt in PROMPTS]
    drawn = [(prompt, Sampling(15, temperature=0.7, seed=3)) for prompt in PROMPTS]

    assert continued(on_gpu, *asked, *drawn) == continued(on_cpu, *asked, *drawn)


# In a process


def test_managers_thread_does_not_outlive_the_main_one(tmp_path):
    """It is no daemon, and has work left: the interpreter would wait for it for ever."""
    files = gpt2(tmp_path)
    program = f"""
from tests.hub.test_torch_reference import PROMPTS, Sampling, llm
runtime = llm({files!r}, batching="manager")
runtime.add(1, PROMPTS[0], Sampling(90))
runtime.step()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=50).returncode == 0


@BATCHINGS
async def test_worker_serves_a_checkpoint(tmp_path, batching):
    files = gpt2(tmp_path / "gpt2")
    load = a_load(
        artefact="gpt2",
        files=files,
        runtime="torch_reference",
        kind="tokens",
        options={"max_tokens": MAX_TOKENS, "batching": batching},
        versions=[HostedVersion("echo:v1", "generate", {}, {})],
        cpu_threads=1,
    )
    bench = Bench(tmp_path)
    worker = bench.handle(load, (sys.executable, "-m", "app.workers.child"))
    await worker.start(60)
    asked = {"max_new_tokens": 8, "temperature": 0.0}
    parameters = resolve(task_info("generate", "tokens").parameters, asked)
    outcome = await worker.ask("Hello", **parameters)

    runtime = llm(files)
    (prompt,) = runtime.tokenizer.encode(["Hello"])
    ((text,),) = continued(runtime, (prompt, Sampling(8)))
    assert value_of(outcome) == runtime.decode(text.token_ids)
    await bench.close()
