"""What is read from a checkpoint's JSON files."""

import pytest

from app.core.errors import CannotLoad
from app.preparing.facts import facts_of, labels_of
from app.preparing.generation import generation_defaults
from app.preparing.pooling import pooling_of
from tests.unit.preparing.jobs import ROBERTA, folder_of, job_for


def facts(tmp_path, config, files=None, **changes):
    return facts_of(job_for(folder_of(tmp_path / "in", config=config, **(files or {})), **changes))


@pytest.mark.parametrize("padding", [{}, {"pad_token_id": 1}, {"pad_token_id": None}], ids=repr)
def test_positions_of_roberta_before_its_padding_token_are_not_counted(tmp_path, padding):
    assert facts(tmp_path, ROBERTA | padding).runtime_options["max_tokens"] == 512


@pytest.mark.parametrize(
    ("files", "tokens"),
    [
        ({"tokenizer_config": {"model_max_length": 128}}, 128),
        ({"tokenizer_config": {"model_max_length": 10**30}}, 512),
        ({"sentence_bert_config": {"max_seq_length": 256}}, 256),
        ({"sentence_bert_config": {"max_seq_length": None}}, 512),
    ],
    ids=["tokenizer", "tokenizer that does not know", "sentence-transformers", "null"],
)
def test_the_longest_input_is_the_least_of_what_is_known(tmp_path, files, tokens):
    assert facts(tmp_path, ROBERTA, files).runtime_options["max_tokens"] == tokens


def test_the_catalog_may_go_beyond_a_setting_but_not_beyond_the_positions(tmp_path):
    files = {"sentence_bert_config": {"max_seq_length": 256}}
    assert facts(tmp_path, ROBERTA, files, max_tokens=500).runtime_options["max_tokens"] == 500
    with pytest.raises(CannotLoad, match="max_tokens 513 is more than the checkpoint's own 512"):
        facts(tmp_path, ROBERTA, files, max_tokens=513)


def test_an_unknown_length_has_to_be_set(tmp_path):
    config = {**ROBERTA, "max_position_embeddings": None}
    with pytest.raises(CannotLoad, match="set max_tokens"):
        facts(tmp_path, config)
    assert facts(tmp_path, config, max_tokens=99).runtime_options["max_tokens"] == 99


def test_labels_stand_in_the_order_of_the_logits():
    assert labels_of({"id2label": {"2": "c", "10": "k", "0": "a", "1": "b"} | _more(3, 10)}) == [
        *("a b c".split()),
        *(f"l{n}" for n in range(3, 10)),
        "k",
    ]


def _more(first, end):
    return {str(n): f"l{n}" for n in range(first, end)}


@pytest.mark.parametrize("table", [{"0": "a", "2": "c"}, {"1": "a"}, {}, {"a": "b"}, [1]], ids=repr)
def test_labels_with_a_hole_are_refused(table):
    with pytest.raises(CannotLoad, match="id2label"):
        labels_of({"id2label": table})


@pytest.mark.parametrize(
    ("change", "task", "options"),
    [
        ({}, "classify", {"labels": ["negative", "neutral", "positive"], "function": "softmax"}),
        (
            {"problem_type": "multi_label_classification", "id2label": {"0": "a", "1": "b"}},
            "classify",
            {"labels": ["a", "b"], "function": "sigmoid"},
        ),
        ({"id2label": {"0": "spam"}}, "classify", {"labels": ["spam"], "function": "sigmoid"}),
        ({"id2label": {"0": "LABEL_0"}}, "rerank", {"function": "sigmoid"}),
        (
            {
                "id2label": {"0": "LABEL_0"},
                "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
            },
            "rerank",
            {"function": "none"},
        ),
        (
            {
                "id2label": {"0": "LABEL_0"},
                "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
            },
            "rerank",
            {"function": "none"},
        ),
    ],
    ids=["softmax", "several labels", "one label", "rerank", "raw rerank", "older raw rerank"],
)
def test_the_function_of_the_logits_follows_from_the_configuration(tmp_path, change, task, options):
    assert facts(tmp_path, {**ROBERTA, **change}, task=task).task_options == options


@pytest.mark.parametrize(
    ("change", "task", "reason"),
    [
        ({}, "rerank", "one score per text, this one has 3"),
        ({"problem_type": "regression"}, "classify", "regression"),
        (
            {"id2label": {"0": "x"}, "sentence_transformers": {"activation_fn": "torch.nn.Tanh"}},
            "rerank",
            "activation torch.nn.Tanh",
        ),
    ],
    ids=["several scores", "regression", "another activation"],
)
def test_a_head_that_no_task_can_use_is_refused(tmp_path, change, task, reason):
    with pytest.raises(CannotLoad, match=reason):
        facts(tmp_path, {**ROBERTA, **change}, task=task)


def modules(*kinds):
    paths = {"Pooling": "1_Pooling", "Transformer": ""}
    return [
        {"path": paths.get(kind, kind), "type": f"sentence_transformers.models.{kind}"}
        for kind in kinds
    ]


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
    ids=["mean", "cls", "last", "newer form"],
)
def test_pooling_is_that_of_sentence_transformers(tmp_path, mode, pooling):
    folder_of(tmp_path, modules=modules("Transformer", "Pooling"), **{"1_Pooling__config": mode})
    assert pooling_of(tmp_path) == {"pooling": pooling, "normalize": False}


def test_vectors_are_normalised_where_a_module_does_it(tmp_path):
    folder_of(
        tmp_path,
        modules=modules("Transformer", "Pooling", "Normalize"),
        **{"1_Pooling__config": {"pooling_mode_mean_tokens": True}},
    )
    assert pooling_of(tmp_path)["normalize"] is True


def test_a_plain_encoder_gives_normalised_means(tmp_path):
    assert pooling_of(tmp_path) == {"pooling": "mean", "normalize": True}


@pytest.mark.parametrize(
    ("kinds", "mode", "reason"),
    [
        (("Pooling",), {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (
            ("Pooling",),
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "pooling_mode_mean_tokens and pooling_mode_cls_token",
        ),
        (("Pooling",), {"word_embedding_dimension": 4}, "none"),
        (("Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "sentence_.*models.Dense"),
    ],
    ids=["max", "two modes", "no mode", "dense"],
)
def test_other_stages_are_refused_by_name(tmp_path, kinds, mode, reason):
    folder_of(tmp_path, modules=modules("Transformer", *kinds), **{"1_Pooling__config": mode})
    with pytest.raises(CannotLoad, match=reason):
        pooling_of(tmp_path)


GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "eos_token_id": 50256,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}
LLAMA = {
    "max_position_embeddings": 2048,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (GPT2, 2 * 12 * 768 * 4),
        (LLAMA, 2 * 30 * 3 * 64 * 4),
        ({**LLAMA, "head_dim": 128}, 2 * 30 * 3 * 128 * 4),
        ({**GPT2, "multi_query": True}, 2 * 12 * 64 * 4),
    ],
    ids=["gpt2", "grouped", "wide heads", "one head"],
)
def test_a_token_takes_this_much_of_the_cache(tmp_path, config, size):
    options = facts(tmp_path, config, kind="tokens", task="generate").runtime_options
    assert options["kv_bytes_per_token"] == size


def test_a_field_that_is_needed_and_missing_is_named(tmp_path):
    config = {name: value for name, value in GPT2.items() if name != "n_layer"}
    with pytest.raises(CannotLoad, match="num_hidden_layers or n_layer"):
        facts(tmp_path, config, kind="tokens", task="generate")


BART = {
    "model_type": "bart",
    "max_position_embeddings": 1024,
    "decoder_start_token_id": 2,
    "eos_token_id": [2, 3],
    "pad_token_id": 1,
    "num_beams": 4,
    "task_specific_params": {"summarization": {"length_penalty": 2.0}},
}


def test_an_encoder_decoder_names_its_special_tokens(tmp_path):
    found = facts(tmp_path, BART, kind="sequences", task="summarize")
    assert found.runtime_options == {
        "max_tokens": 1024,
        "precision": "int8",
        "decoder_start": 2,
        "eos": 2,
        "pad": 1,
    }
    without = {name: value for name, value in BART.items() if name != "decoder_start_token_id"}
    with pytest.raises(CannotLoad, match="decoder_start_token_id"):
        facts(tmp_path, without, kind="sequences", task="summarize")


def test_a_forced_end_is_told_to_engines_and_not_to_transformers(tmp_path):
    config = {**BART, "forced_eos_token_id": 2}
    asked = {"kind": "sequences", "task": "summarize"}
    engine = facts(tmp_path, config, **asked, runtime="ctranslate2_seq2seq")
    assert engine.runtime_options["forced_eos"] == 2
    reference = facts(tmp_path, config, **asked, runtime="torch_reference")
    assert "forced_eos" not in reference.runtime_options


def test_older_checkpoints_keep_their_generation_in_config(tmp_path):
    assert generation_defaults(tmp_path, BART, task="summarize") == {
        "num_beams": 4,
        "length_penalty": 2.0,
        "decoder_start_token_id": 2,
        "eos_token_id": [2, 3],
        "pad_token_id": 1,
    }


def test_generation_config_replaces_the_search_of_config_but_not_its_tokens(tmp_path):
    folder_of(tmp_path, generation_config={"num_beams": 2, "eos_token_id": 2, "top_k": None})
    found = generation_defaults(tmp_path, {**BART, "max_length": 99}, task="translate")
    assert found == {
        "num_beams": 2,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "pad_token_id": 1,
    }


def test_a_decoder_samples_where_its_part_for_the_task_says_so(tmp_path):
    assert "do_sample" not in generation_defaults(tmp_path, GPT2)
    assert generation_defaults(tmp_path, GPT2, task="generate") == {
        "do_sample": True,
        "max_length": 50,
        "eos_token_id": 50256,
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "config.json cannot be read"), ("[]", "not a JSON object"), (None, "no config.json")],
    ids=["damaged", "a list", "missing"],
)
def test_a_bad_configuration_is_named(tmp_path, content, reason):
    source = folder_of(tmp_path / "in")
    if content is not None:
        (source / "config.json").write_text(content)
    with pytest.raises(CannotLoad, match=reason):
        facts_of(job_for(source))
