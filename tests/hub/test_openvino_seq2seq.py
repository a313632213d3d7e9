"""`openvino_seq2seq` beside transformers' own `generate`, on a tiny BART with random weights."""

import dataclasses

import numpy as np
import pytest

from app.core.errors import CannotLoad
from app.core.inference import Decoding
from app.preparing.bart import prepare_bart
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_seq2seq import OpenVinoSeq2Seq

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

VOCABULARY, EOS = 203, 2
pytestmark = pytest.mark.timeout(300)
BEAMS = Decoding(max_tokens=24, min_tokens=5, beams=4, length_penalty=2.0, no_repeat_ngram=3)


def tiny_bart(**changes):
    """Weights large enough to be opinionated, and an end token that really comes."""
    config = transformers.BartConfig(
        vocab_size=VOCABULARY,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=80,
        **{"forced_eos_token_id": EOS, "init_std": 0.3, **changes},
    )
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name:
                parameter += 0.05 * torch.randn_like(parameter)
        model.final_logits_bias[0, EOS] = 7.0
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny_bart()
    model.save_pretrained(folder)
    words = {f"w{index}": index for index in range(VOCABULARY)}
    model_of_words = tokenizers.models.WordLevel(words, unk_token="w3")
    tokenizers.Tokenizer(model_of_words).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    torch.set_num_threads(1)  # tiny products: more threads only wait for each other
    return transformers.BartForConditionalGeneration.from_pretrained(checkpoint).eval()


def runtime(checkpoint, folder, precision, streams=1):
    options = prepare_bart(checkpoint, folder, precision)
    files = {"model": str(folder), "tokenizer": str(checkpoint / "tokenizer.json")}
    return OpenVinoSeq2Seq(files, plan=StreamPlan(streams, 1), **options)


@pytest.fixture(scope="module")
def exact(checkpoint, tmp_path_factory):
    return runtime(checkpoint, tmp_path_factory.mktemp("fp32"), "fp32", streams=2)


@pytest.fixture(scope="module")
def small(checkpoint, tmp_path_factory):
    return runtime(checkpoint, tmp_path_factory.mktemp("int8"), "int8")


def documents(count, seed=0, longest=70):
    random = np.random.default_rng(seed)
    lengths = random.integers(3, longest, count)
    return [[0, *random.integers(4, VOCABULARY, length).tolist(), EOS] for length in lengths]


def generated(model, row, decoding):
    """What transformers writes, without start, prefix, end and padding."""
    forced = {"forced_bos_token_id": decoding.prefix[0] if decoding.prefix else None}
    with torch.inference_mode():
        ids = model.generate(
            torch.tensor([row]),
            attention_mask=torch.ones(1, len(row), dtype=torch.long),
            num_beams=decoding.beams,
            max_length=decoding.max_tokens + 1,
            min_length=decoding.min_tokens + 1,
            length_penalty=decoding.length_penalty,
            no_repeat_ngram_size=decoding.no_repeat_ngram,
            repetition_penalty=decoding.repetition_penalty,
            early_stopping=decoding.early_stopping,
            do_sample=False,
            **forced,
        )[0].tolist()
    made = ids[1 + len(decoding.prefix) :]
    return tuple(made[: made.index(EOS)] if EOS in made else made)


def texts(outputs):
    return [text.token_ids for (text,) in outputs]


RULES = {
    "bart-large-cnn's own": dataclasses.replace(BEAMS, early_stopping=True, prefix=(0,)),
    "patient": dataclasses.replace(BEAMS, early_stopping="never", length_penalty=1.0),
    "heuristic": dataclasses.replace(BEAMS, length_penalty=0.8, min_tokens=0),
    "short texts preferred": dataclasses.replace(BEAMS, length_penalty=-1.0, beams=3),
    "penalised": dataclasses.replace(BEAMS, repetition_penalty=1.4, beams=2, no_repeat_ngram=0),
    "greedy": Decoding(max_tokens=24, no_repeat_ngram=2, repetition_penalty=1.3),
}


@pytest.mark.parametrize("name", RULES)
def test_fp32_writes_what_transformers_writes(model, exact, name):
    rows = documents(20 if name != "bart-large-cnn's own" else 100)
    expected = [generated(model, row, RULES[name]) for row in rows]

    made = texts(exact.run(rows, [RULES[name]] * len(rows)))

    equal = sum(a == b for a, b in zip(expected, made, strict=True))
    assert equal >= 0.95 * len(rows)
    assert len({len(text) for text in expected}) > 2  # ends come where they like


@pytest.mark.parametrize("engine", ["exact", "small"])
def test_a_text_is_the_same_alone_and_beside_others_with_other_rules(request, engine):
    engine = request.getfixturevalue(engine)
    rows = documents(24, seed=1)
    settings = [list(RULES.values())[index % len(RULES)] for index in range(len(rows))]

    together = texts(engine.run(rows, settings))
    alone = [texts(engine.run([row], [rule]))[0] for row, rule in zip(rows, settings, strict=True)]

    assert together == alone


def test_int8_chooses_the_token_of_fp32_after_the_same_text(exact, small):
    rows = documents(60, seed=2)
    plain = Decoding(max_tokens=10, min_tokens=10)
    written = texts(exact.run(rows, [plain] * len(rows)))
    told = [
        dataclasses.replace(plain, prefix=text[: index % 8]) for index, text in enumerate(written)
    ]

    nearly = texts(small.run(rows, told))

    agreed = [
        text[index % 8] == other[0]
        for index, (text, other) in enumerate(zip(written, nearly, strict=True))
    ]
    assert np.mean(agreed) > 0.7  # random weights: the best two tokens are often close


def test_sampling_repeats_itself_for_a_seed_and_only_for_it(exact):
    rows = documents(1) * 4
    by_seed = [
        Decoding(max_tokens=12, min_tokens=12, temperature=1.0, top_p=0.9, top_k=50, seed=seed)
        for seed in (7, 7, 8, 9)
    ]

    first, again, *others = texts(exact.run(rows, by_seed))

    assert first == again
    assert first not in others


def test_probing_runs_a_batch(small):
    small.probe(documents(3))


def test_other_architectures_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CannotLoad, match="'t5' is not made for openvino_seq2seq"):
        prepare_bart(tmp_path, tmp_path / "out", "int8")


def test_a_damaged_checkpoint_is_named(checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CannotLoad, match="cannot read .*model.safetensors"):
        prepare_bart(tmp_path, tmp_path / "out", "int8")


def test_a_damaged_folder_is_named(checkpoint, tmp_path):
    for part in ("encoder", "decoder"):
        (tmp_path / f"{part}.xml").write_text("<net")
    files = {"model": str(tmp_path), "tokenizer": str(checkpoint / "tokenizer.json")}
    with pytest.raises(CannotLoad, match="OpenVINO cannot read"):
        OpenVinoSeq2Seq(files, plan=StreamPlan(1, 1), max_tokens=8, decoder_start=2, eos=2, pad=1)
