"""The parameters of tasks that write a text with an encoder-decoder, as data."""

from app.core.parameters import Parameter
from app.tasks.parameters import TRUNCATE

_DECODING: tuple[Parameter, ...] = (
    Parameter(
        "num_beams",
        "integer",
        None,
        "How many texts are followed side by side; 1 takes the likeliest token each time; null: "
        "the checkpoint's.",
        minimum=1,
        maximum=16,
    ),
    Parameter(
        "length_penalty",
        "number",
        None,
        "Of beam search: above 0 favours longer texts, below 0 shorter ones; null: the "
        "checkpoint's.",
        minimum=-10,
        maximum=10,
    ),
    Parameter(
        "early_stopping",
        "boolean",
        None,
        "Of beam search: end as soon as num_beams texts are complete; null: the checkpoint's.",
    ),
    Parameter(
        "no_repeat_ngram_size",
        "integer",
        None,
        "No sequence of this many tokens comes twice; 0: they may; null: the checkpoint's.",
        minimum=0,
        maximum=100,
    ),
    Parameter(
        "repetition_penalty",
        "number",
        None,
        "Above 1: tokens that were written become less likely; null: the checkpoint's.",
        minimum=0.1,
        maximum=10,
    ),
    Parameter(
        "do_sample",
        "boolean",
        None,
        "Draw tokens at random, with num_beams 1; null: the checkpoint's, or false where "
        "num_beams is above 1.",
    ),
    Parameter(
        "temperature",
        "number",
        None,
        "Randomness of sampling; null: the checkpoint's.",
        minimum=0.01,
        maximum=10,
    ),
    Parameter(
        "top_p",
        "number",
        None,
        "Sample from the likeliest tokens that make up this probability; null: the checkpoint's.",
        minimum=0.01,
        maximum=1,
    ),
    Parameter(
        "top_k",
        "integer",
        None,
        "Sample from this many of the likeliest tokens; 0: all; null: the checkpoint's.",
        minimum=0,
        maximum=1000,
    ),
    Parameter(
        "seed",
        "integer",
        None,
        "Of sampling: same seed and request, same text; null: a fresh seed, told in metadata.",
        minimum=0,
        maximum=2**53 - 1,
    ),
    TRUNCATE,
    Parameter(
        "long_document",
        "string",
        "refuse",
        "A text longer than the model takes is refused, or cut, or split at sentences into parts "
        "that are run one by one and whose results are joined.",
        choices=("refuse", "truncate", "merge"),
    ),
)

_MAX_LENGTH = Parameter(
    "max_length",
    "integer",
    None,
    "Most tokens of the result, its start and end marks counted, of each part where a long text "
    "is split; times num_beams at most 8,192; null: the checkpoint's.",
    minimum=4,
    maximum=4096,
)

SUMMARIZE: tuple[Parameter, ...] = (
    _MAX_LENGTH,
    Parameter(
        "min_length",
        "integer",
        None,
        "Fewest tokens of the summary, its start mark counted, as far as the text, or the part of "
        "a split one, has them; null: the checkpoint's.",
        minimum=0,
        maximum=4096,
    ),
    *_DECODING,
)

_LANGUAGE = "as the checkpoint writes it (fra_Latn, fr_XX, fr)"

TRANSLATE: tuple[Parameter, ...] = (
    Parameter(
        "source_lang",
        "string",
        None,
        f"Language of text, {_LANGUAGE}; null: the checkpoint's. Not for models of one pair.",
        max_length=32,
    ),
    Parameter(
        "target_lang",
        "string",
        None,
        f"Language to translate into, {_LANGUAGE}. Required by models of many languages.",
        max_length=32,
    ),
    _MAX_LENGTH,
    *_DECODING,
)
