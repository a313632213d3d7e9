"""What a checkpoint becomes before it is served: kinds, precisions, and the record of the making.

A *kind* says what a loaded artefact gives for its input, and so which tasks can use it and which
worker loop runs it. A `Manifest` is written by the prepare step (app/preparing) into the folder of
what it made, and read by everything that serves from there.
"""

from typing import Any, Literal

from msgspec import Struct, field

Kind = Literal["vectors", "scores", "sequences", "tokens", "tensors", "remote"]
"""vectors: one vector per row (embedders). scores: one number per label and row (classifiers,
rerankers). sequences: a text for a text (encoder-decoders). tokens: continuations (decoder LLMs).
tensors: named arrays in, named arrays out (any graph). remote: whatever another server answers."""

Precision = Literal["int8", "int4", "fp32"]
"""Of the weights; activations are quantised as the runtime does."""

MANIFEST = "manifest.json"


class Parity(Struct, frozen=True):
    """The prepared artefact beside its original, over a fixed set of inputs.

    figures: name to measured value, for instance `label_agreement`, `max_probability_difference`,
    `token_agreement`, `mean_cosine`. bar: the least (or, for differences, the most) that passes,
    by the same names. failed: figures that are on the wrong side of their bar, as sentences.
    """

    inputs: int
    figures: dict[str, float]
    bar: dict[str, float]
    failed: list[str] = field(default_factory=list)

    @property
    def has_passed(self) -> bool:
        return not self.failed


class Manifest(Struct, frozen=True):
    """What lies in a folder of prepared files.

    files: role to path, relative to the folder (absolute where files are served as they lie).
    runtime_options and task_options: what the checkpoint itself says, for instance `max_tokens`,
    `pooling`, `labels`; a catalog's own options win over them. generation: the checkpoint's
    defaults (`generation_config.json`). options_by_task: what it says for one task alone, by the
    task's name; wins over both. parity: None for files that are served as they are.
    tools: versions of the libraries that made it; empty for files that are served as they are.
    """

    kind: Kind
    runtime: str
    architecture: str
    precision: str
    files: dict[str, str]
    runtime_options: dict[str, Any] = field(default_factory=dict)
    task_options: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    options_by_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    size_bytes: int = 0
    parity: Parity | None = None
    tools: dict[str, str] = field(default_factory=dict)
    prepare_s: float = 0.0
