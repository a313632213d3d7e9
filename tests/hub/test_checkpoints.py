"""The checkpoints that the other tests are built on."""

import json

import pytest
import transformers

from tests.hub import checkpoints


@pytest.mark.parametrize("tokenizer_json", [True, False], ids=["tokenizer.json", "tables"])
@pytest.mark.parametrize(
    ("family", "model_type", "text", "ids"),
    [
        ("gpt2", "gpt2", "Hello world", [15496, 995]),
        ("roberta", "roberta", "Hello world!", [0, 31414, 232, 328, 2]),
        ("bart", "bart", "Hello world!", [0, 31414, 232, 328, 2]),
    ],
    ids=["gpt2", "roberta", "bart"],
)
def test_tokens_are_those_of_the_published_checkpoint(
    tmp_path, family, model_type, text, ids, tokenizer_json
):
    checkpoints.write_json(tmp_path / "config.json", {"model_type": model_type})
    checkpoints.write_tokenizer(tmp_path, family, tokenizer_json=tokenizer_json)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(text)["input_ids"] == ids


def test_the_sentiment_checkpoint_has_the_files_of_its_publisher(tmp_path):
    folder = checkpoints.tiny_roberta(tmp_path, weights="pickle")
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "merges.txt",
        "pytorch_model.bin",
        "vocab.json",
    }


def test_a_sharded_checkpoint_loads_as_a_whole_one(tmp_path):
    whole, sharded = (
        checkpoints.tiny_gpt2(tmp_path / weights, weights=weights, tokenizer_json=False)
        for weights in ("safetensors", "sharded")
    )
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    first, second = (
        transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (whole, sharded)
    )
    assert all((second[name] == value).all() for name, value in first.items())


def test_a_field_is_overridden_or_taken_away(tmp_path):
    folder = checkpoints.tiny_bart(tmp_path, num_beams=2, normalize_before=None)
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert config["num_beams"] == generation["num_beams"] == 2
    assert "normalize_before" not in config
