"""The parameters that each task takes, as data: checked and documented from here alone."""

from app.core.parameters import Parameter

TRUNCATE = Parameter(
    "truncate", "boolean", False, "Cut an input that is too long instead of refusing it."
)

EMBED: tuple[Parameter, ...] = (
    TRUNCATE,
    Parameter(
        "dimensions",
        "integer",
        None,
        "Length of the vector, cut and brought back to length 1, for models that were trained to "
        "be cut; null: the model's own.",
        minimum=1,
        maximum=65_536,
    ),
)

CLASSIFY: tuple[Parameter, ...] = (
    TRUNCATE,
    Parameter(
        "top_k",
        "integer",
        None,
        "Show this many of the highest scores, best first; null: all, in the model's order.",
        minimum=1,
        maximum=10_000,
    ),
)

RERANK: tuple[Parameter, ...] = (
    Parameter(
        "documents",
        "strings",
        None,
        "Required: what is ranked by how well it answers text, 1 to 256 strings.",
        max_items=256,
        max_length=100_000,
    ),
    Parameter(
        "top_n",
        "integer",
        None,
        "Return this many of the best documents; null: all.",
        minimum=1,
        maximum=256,
    ),
    Parameter(
        "return_documents", "boolean", False, "Put each document beside its index and score."
    ),
    Parameter(
        "truncate",
        "boolean",
        False,
        "Cut a document that is too long instead of refusing it; text is never cut.",
    ),
)

TENSORS: tuple[Parameter, ...] = (
    Parameter(
        "outputs",
        "strings",
        None,
        "Names of the outputs to return; null: all.",
        max_items=64,
        max_length=128,
    ),
    Parameter(
        "binary",
        "boolean",
        False,
        "Data of the outputs as base64 of their little-endian bytes, each string behind its length "
        "in four bytes; unlike numbers it may hold NaN.",
    ),
)

EXTRACT: tuple[Parameter, ...] = (
    Parameter(
        "max_length",
        "integer",
        142,
        "Most tokens in the summary. At least one sentence is always returned.",
        minimum=1,
        maximum=4096,
    ),
    Parameter(
        "min_length",
        "integer",
        0,
        "Fewest tokens in the summary, as far as the text has them.",
        minimum=0,
        maximum=4096,
    ),
)

GENERATE: tuple[Parameter, ...] = (
    Parameter(
        "max_length",
        "integer",
        None,
        "Most tokens of prompt and continuation together.",
        minimum=1,
        maximum=8192,
    ),
    Parameter(
        "max_new_tokens",
        "integer",
        None,
        "Most tokens of the continuation; where neither limit is given, the checkpoint's own, or "
        "else 50.",
        minimum=1,
        maximum=4096,
    ),
    Parameter(
        "min_new_tokens",
        "integer",
        None,
        "Fewest tokens of the continuation before it may end; null: the checkpoint's own, or "
        "else 0.",
        minimum=0,
        maximum=4096,
    ),
    Parameter(
        "num_return_sequences",
        "integer",
        1,
        "How many continuations; above 1 the result is a list.",
        minimum=1,
        maximum=8,
    ),
    Parameter(
        "do_sample",
        "boolean",
        None,
        "false takes the likeliest token each time, true samples; null: true, unless the "
        "checkpoint or another parameter says otherwise.",
    ),
    Parameter(
        "temperature",
        "number",
        None,
        "Randomness of sampling; 0 takes the likeliest token each time; null: the checkpoint's "
        "own, or else 0.7.",
        minimum=0,
        maximum=2,
    ),
    Parameter(
        "top_p",
        "number",
        None,
        "Sample from the likeliest tokens that make up this probability; null: the checkpoint's "
        "own, or else 0.95.",
        minimum=0.01,
        maximum=1,
    ),
    Parameter(
        "top_k",
        "integer",
        None,
        "Sample from this many of the likeliest tokens, 0 from all; null: the checkpoint's own, "
        "or else all.",
        minimum=0,
        maximum=1000,
    ),
    Parameter(
        "repetition_penalty",
        "number",
        None,
        "Above 1, tokens of text and continuation become less likely to come again; null: the "
        "checkpoint's own, or else 1.",
        minimum=0.1,
        maximum=10,
    ),
    Parameter(
        "frequency_penalty",
        "number",
        0,
        "Above 0, a token becomes less likely each time it comes in the continuation.",
        minimum=-2,
        maximum=2,
    ),
    Parameter(
        "presence_penalty",
        "number",
        0,
        "Above 0, a token becomes less likely once it has come in the continuation.",
        minimum=-2,
        maximum=2,
    ),
    Parameter(
        "num_beams",
        "integer",
        None,
        "Beams of a search for the likeliest text, instead of sampling; null: the checkpoint's "
        "own, or else 1.",
        minimum=1,
        maximum=8,
    ),
    Parameter(
        "seed",
        "integer",
        None,
        "Same seed and request, same text; null: a fresh seed, told in metadata.",
        minimum=0,
        maximum=2**53 - 1,
    ),
    Parameter(
        "stop",
        "strings",
        (),
        "Texts that end the continuation; they are not part of it.",
        max_items=4,
        max_length=100,
    ),
    Parameter(
        "min_p",
        "number",
        0,
        "Sample from tokens at least this share as likely as the likeliest.",
        minimum=0,
        maximum=1,
    ),
    Parameter(
        "logit_bias",
        "object",
        None,
        "Added to the logits of tokens: numbers from -100 to 100 by token id, at most 1,024.",
    ),
    Parameter(
        "logprobs",
        "integer",
        None,
        "Tell in metadata how likely the model found each token, and this many of the likeliest "
        "ones; null: do not tell.",
        minimum=0,
        maximum=20,
    ),
    Parameter(
        "json_schema",
        "string",
        None,
        "Text of the JSON schema that the continuation has to fit, for instance "
        '{"type": "object"}; null: any text.',
        max_length=65_536,
    ),
    Parameter(
        "return_full_text",
        "boolean",
        False,
        "Put the prompt in front of the continuation.",
    ),
)
