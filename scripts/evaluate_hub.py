"""Prints what preparing costs checkpoints with real weights, and fails below the bars.

    python -m scripts.evaluate_hub        (make eval-hub)

The whole path is used: a checkpoint in a hub's layout (scripts/hub_checkpoints.py) is prepared by
the store that serves, at every precision, run by the runtime that serves, and set beside
transformers in float32. docs/models.md keeps the tables. What was prepared stays in
`MODEL_STORE/datasets/hub-prepared`, so only the first run takes minutes.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.checkpoint import Kind, Precision
from app.core.config import load_settings
from app.core.inference import Sampling
from app.models.planned import Wanted
from app.models.preparation import open_stores
from app.models.prepared import PreparedStore
from app.models.prepared_folder import Prepared
from app.models.progress import progress_for_stderr
from app.models.spec import Checkpoint
from app.preparing.figures import compare_tokens, cosines, probabilities
from app.preparing.parity_inputs import PROMPTS
from app.runtimes.base import StreamPlan
from app.runtimes.catalogue import runtime_class
from app.tasks.classify import Head
from app.tasks.rows import cut
from scripts import encoder as served
from scripts import hub_checkpoints
from scripts.datasets import Labelled, folder, papers, uci_sentences
from scripts.evaluate import Check, table
from scripts.logistic import fit
from scripts.quality import Array

THREADS = len(os.sched_getaffinity(0))
COSINE_BAR = 0.995
AGREEMENT_BAR = 0.99
NEW_TOKENS = 50
PROMPT_COUNT = 20
PROMPT_WORDS = 12  # of an abstract
PENALTY = 1.0  # of the classifier that is fitted here
BATCH = 16
PERPLEXITY_PAPERS = 12
Row = list[int]
Floats = NDArray[np.float32]


def main() -> int:
    store = open_stores(_settings(), progress_for_stderr()).checkpoints
    checks = [check for part in (sentences, classifiers, generation) for check in part(store)]
    say(
        "Two logits are nearly opposite numbers, whose cosine is 1 or -1: for such a classifier it "
        "says what label agreement says, and is no bar here."
    )
    say("BART: no package carries its weights, so nothing is measured here; see tests/hub.")
    rows = [[c.name, f"{c.value:.4f}", c.bar, "yes" if c.holds else "NO"] for c in checks]
    table("Bars", ["measure", "value", "bar", "holds"], rows)
    return 0 if all(check.holds for check in checks) else 1


def _settings() -> Any:
    settings = load_settings()
    return settings.model_copy(update={"model_store": folder() / "hub-prepared"})


def say(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


def prepared(
    store: PreparedStore, source: Path, kind: Kind, task: str, name: Precision
) -> Prepared:
    """accept_parity: the figures are what this is about, so they are shown, not refused."""
    checkpoint = Checkpoint(f"file://{source}", precision=name, accept_parity=True)
    return store.bring(
        Wanted(checkpoint, kind, task),
        lambda step: sys.stderr.write(f"{source.name} {name}: {step}\n") and None,
    )


def load(made: Prepared, **options: Any) -> Any:
    """options: as a catalog's `runtime_options`, they win over the checkpoint's."""
    manifest = made.manifest
    own = {"prepared": None} if manifest.kind == "tokens" else {}
    plan = StreamPlan(streams=1, threads=THREADS)
    adapter = runtime_class(manifest.runtime, manifest.kind)
    return adapter(made.files, plan=plan, **own, **{**manifest.runtime_options, **options})


def parity_table(title: str, source: Path, made: dict[Precision, Prepared]) -> None:
    """What the prepare step itself found, over its own few texts."""
    weights = (source / "model.safetensors").stat().st_size
    rows: list[list[Any]] = [["original", f"{weights / 1e6:.1f}", "", ""]]
    for precision, one in made.items():
        parity = one.manifest.parity
        figures = parity.figures if parity else {}
        words = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in figures.items())
        passed = "passed" if parity and parity.has_passed else "FAILED"
        rows.append([precision, f"{one.manifest.size_bytes / 1e6:.1f}", words, passed])
    table(title, ["precision", "MB", "the prepare step's own figures", "gate"], rows)


# --- Encoders -------------------------------------------------------------------------------------


def encoded(runtime: Any, texts: Sequence[str]) -> list[Row]:
    limit = runtime.tokenizer.max_tokens
    return [list(cut(row, limit)) for row in runtime.tokenizer.encode(texts)]


def in_torch(rows: Sequence[Row], run: Any) -> Floats:
    """run: takes ids and mask of a padded batch, gives a tensor [rows, width]."""
    import torch

    torch.set_num_threads(THREADS)

    class Torch:
        def run(self, batch: Sequence[Row]) -> Floats:
            width = max(map(len, batch))
            ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch])
            mask = torch.tensor([[n < len(row) for n in range(width)] for row in batch]).long()
            with torch.inference_mode():
                return run(ids, mask).numpy()

    return served.run(Torch(), rows, BATCH)


def sentences(store: PreparedStore) -> list[Check]:
    """all-MiniLM-L6-v2: vectors, and the labels that the shipped sentiment head finds in them."""
    from torch.nn.functional import normalize
    from transformers import AutoModel

    source = hub_checkpoints.minilm()
    texts = [one.text for one in uci_sentences()]
    made = {name: prepared(store, source, "vectors", "embed", name) for name in _ENCODERS}
    parity_table("all-MiniLM-L6-v2, real weights: prepared", source, made)
    vectors = {}
    for name, one in made.items():
        runtime = load(one)
        rows = encoded(runtime, texts)
        vectors[name] = served.run(runtime, rows, BATCH)
    model = AutoModel.from_pretrained(str(source), dtype="float32").eval()

    def pooled(ids: Any, mask: Any) -> Any:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        summed = (hidden * mask[..., None]).sum(dim=1)
        return normalize(summed / mask.sum(dim=1, keepdim=True))

    theirs = in_torch(rows, pooled)
    against = {
        "int8 to fp32": cosines(vectors["int8"], vectors["fp32"]),
        "fp32 to transformers": cosines(vectors["fp32"], theirs),
        "int8 to transformers": cosines(vectors["int8"], theirs),
    }
    shown = [
        [name, f"{found.mean():.5f}", f"{found.min():.5f}", f"{np.quantile(found, 0.01):.5f}"]
        for name, found in against.items()
    ]
    title = f"all-MiniLM-L6-v2, {len(texts):,} UCI sentences: cosine of vectors"
    table(title, ["vectors", "mean", "least", "1% of texts below"], shown)
    head = Head.load(served.HEAD)
    first, second = head.scores(vectors["int8"]), head.scores(vectors["fp32"])
    agreement = label_table("The shipped sentiment head on these vectors", first, second)
    return [
        Check(
            "MiniLM, mean cosine int8 to fp32", float(against["int8 to fp32"].mean()), COSINE_BAR
        ),
        Check("MiniLM, mean cosine fp32 to transformers", float(_mean(against, 1)), 0.9999),
        Check("sentiment head, label agreement int8 to fp32", agreement, AGREEMENT_BAR),
    ]


_ENCODERS: tuple[Precision, ...] = ("int8", "fp32")


def _mean(against: dict[str, Floats], number: int) -> float:
    return float(list(against.values())[number].mean())


def label_table(title: str, int8: Array, fp32: Array) -> float:
    """Chances of each label, [rows, labels]; gives the share of equal labels."""
    same = int8.argmax(axis=1) == fp32.argmax(axis=1)
    ordered = np.sort(fp32, axis=1)
    lead = (ordered[:, -1] - ordered[:, -2])[~same]
    moved = np.abs(int8 - fp32).max(axis=1)
    table(
        title,
        [
            "texts",
            "label agreement",
            "labels that differ",
            "their largest lead in fp32",
            "largest probability difference",
            "mean",
        ],
        [
            [
                len(same),
                f"{same.mean():.4f}",
                int((~same).sum()),
                f"{lead.max():.3f}" if len(lead) else "-",
                f"{moved.max():.3f}",
                f"{moved.mean():.4f}",
            ]
        ],
    )
    return float(same.mean())


def classifiers(store: PreparedStore) -> list[Check]:
    """No classifier is packaged: two are trained on half of the texts, judged on the others.

    tuned: as a whole, as published ones are. fitted: a head on MiniLM as it is, whose texts are
    more often in the balance: it is served with products in float32, as docs/models.md advises.
    """
    texts = uci_sentences()
    learned, judged = texts[::2], texts[1::2]
    fitted = hub_checkpoints.minilm_classifier(lambda: _fitted(store, learned))
    tuned = hub_checkpoints.minilm_tuned(learned)
    return [
        _classifier(store, "tuned", tuned, judged, served_as=INT8),
        _classifier(store, "fitted", fitted, judged, served_as=FLOAT_PRODUCTS),
    ]


def _classifier(
    store: PreparedStore, what: str, source: Path, judged: list[Labelled], *, served_as: str
) -> Check:
    from transformers import AutoModelForSequenceClassification

    made = {name: prepared(store, source, "scores", "classify", name) for name in _ENCODERS}
    parity_table(f"MiniLM as a classifier, {what}: prepared", source, made)
    logits = {}
    for name, (precision, options) in _WAYS.items():
        runtime = load(made[precision], **options)
        rows = encoded(runtime, [one.text for one in judged])
        logits[name] = served.run(runtime, rows, BATCH)
    model = AutoModelForSequenceClassification.from_pretrained(str(source), dtype="float32").eval()
    theirs = in_torch(rows, lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits)
    chances = {name: probabilities(found, "softmax") for name, found in logits.items()}
    wanted = np.array([one.positive for one in judged])
    shown = [
        [
            name,
            f"{(found.argmax(axis=1) == wanted).mean():.4f}",
            f"{(found.argmax(axis=1) == chances['fp32'].argmax(axis=1)).mean():.4f}",
            f"{cosines(logits[name], logits['fp32']).mean():.5f}",
            f"{np.abs(logits[name] - theirs).max():.5f}",
        ]
        for name, found in chances.items()
    ]
    columns = [
        "weights",
        "right",
        "label agreement with fp32",
        "mean cosine of logits to fp32",
        "largest distance of a logit to torch's",
    ]
    table(
        f"MiniLM as a classifier, {what}: {len(judged):,} sentences not learned from",
        columns,
        shown,
    )
    agreement = {
        name: label_table(
            f"MiniLM as a classifier, {what}: labels, {name} beside fp32",
            chances[name],
            chances["fp32"],
        )
        for name in (INT8, FLOAT_PRODUCTS)
    }
    measure = f"classifier {what}, label agreement {served_as} to fp32"
    return Check(measure, agreement[served_as], AGREEMENT_BAR)


INT8, FLOAT_PRODUCTS = "int8", "int8, products in float32"
_WAYS: dict[str, tuple[Precision, dict[str, str]]] = {
    INT8: ("int8", {}),
    FLOAT_PRODUCTS: ("int8", {"precision": "fp32"}),  # what 8-bit activations cost
    "fp32": ("fp32", {}),
}


def _fitted(store: PreparedStore, texts: Sequence[Labelled]) -> tuple[Floats, Floats]:
    """Weights and bias over the tanh of the first token's last state, as the checkpoint has it."""
    from transformers import AutoModel

    source = hub_checkpoints.minilm()
    rows = encoded(
        load(prepared(store, source, "vectors", "embed", "fp32")), [one.text for one in texts]
    )
    model = AutoModel.from_pretrained(str(source), dtype="float32").eval()
    features = in_torch(
        rows,
        lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].tanh(),
    )
    wanted = np.eye(2)[[int(one.positive) for one in texts]]
    weights, bias = fit(features.astype(np.float64), wanted, np.ones(len(texts)), PENALTY)
    return weights.astype(np.float32), bias.astype(np.float32)


# --- Decoders -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Original:
    """transformers' model in float32, and what it wrote."""

    model: Any
    prompts: list[Row]
    texts: list[Row]

    def gap(self, number: int, place: int, other: int) -> float:
        """How far the logit of another token lies below the one chosen there."""
        import torch

        row = [*self.prompts[number], *self.texts[number][:place]]
        with torch.inference_mode():
            logits = self.model(torch.tensor([row])).logits[0, -1]
        return float(logits.max() - logits[other])


def generation(store: PreparedStore) -> list[Check]:
    """SmolLM2-135M-Instruct, greedy: token by token beside transformers."""
    source = hub_checkpoints.smollm2()
    precisions: tuple[Precision, ...] = ("fp32", "int8", "int4")
    made = {name: prepared(store, source, "tokens", "generate", name) for name in precisions}
    parity_table("SmolLM2-135M-Instruct, weights dequantised from 4 bits: prepared", source, made)
    original = _original(source)
    rows: list[list[Any]] = []
    equal = 0
    for name, one in made.items():
        runtime = load(one)
        if runtime.tokenizer.encode(prompts()) != original.prompts:
            raise SystemExit(f"the tokenizer of {name} and transformers' disagree")
        ours = generate(runtime, original.prompts)
        figures = compare_tokens(ours, original.texts)
        same = sum(a == b for a, b in zip(ours, original.texts, strict=True))
        rows.append(
            [
                name,
                f"{same} of {len(ours)}",
                f"{figures['first_token_agreement']:.3f}",
                f"{figures['token_agreement']:.3f}",
                _perplexity_of(one, runtime.tokenizer),
            ]
        )
        _explain(name, original, ours)
        if name == "fp32":
            equal = same
    columns = ["precision", "same text", "same first token", "tokens before a fork", "perplexity"]
    title = f"SmolLM2-135M-Instruct beside transformers, {PROMPT_COUNT} prompts x {NEW_TOKENS}"
    table(title, columns, rows)
    return [Check("SmolLM2, fp32 texts equal to transformers'", equal / PROMPT_COUNT, 1.0)]


def prompts() -> list[str]:
    """Those of the prepare step, and beginnings of abstracts."""
    begun = [" ".join(paper.sentences[0].split()[:PROMPT_WORDS]) for paper in papers("test")]
    return [*PROMPTS, *begun][:PROMPT_COUNT]


def _original(source: Path) -> Original:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(THREADS)
    tokenizer = AutoTokenizer.from_pretrained(str(source))
    model = AutoModelForCausalLM.from_pretrained(str(source), dtype="float32").eval()
    rows = [tokenizer(text)["input_ids"] for text in prompts()]
    texts = []
    for row in rows:
        ids = torch.tensor([row])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        texts.append(made[0, len(row) :].tolist())
    return Original(model, rows, texts)


def generate(runtime: Any, rows: Sequence[Row]) -> list[Row]:
    """All prompts at once, as the server runs them; the end mark counts as a token."""
    for number, row in enumerate(rows):
        runtime.add(number, row, Sampling(max_new_tokens=NEW_TOKENS))
    made: dict[int, Row] = {}
    while len(made) < len(rows):
        for number, (generated, *_) in runtime.step().finished.items():
            made[number] = list(generated.token_ids)
    return [made[number] for number in range(len(rows))]


def _explain(name: str, original: Original, ours: Sequence[Row]) -> None:
    """Where texts fork, and how near the two tokens were in transformers' own logits."""
    forks = []
    for number, (row, theirs) in enumerate(zip(ours, original.texts, strict=True)):
        pairs = enumerate(zip(row, theirs, strict=False))
        place = next((at for at, (a, b) in pairs if a != b), None)
        if place is not None:
            forks.append([number, place, f"{original.gap(number, place, row[place]):.4f}"])
        elif len(row) != len(theirs):
            forks.append([number, min(len(row), len(theirs)), "one text ends"])
    if forks:
        columns = ["prompt", "first differing token", "logit gap in transformers"]
        table(f"SmolLM2 {name}: forks", columns, forks)


def _perplexity_of(made: Prepared, tokenizer: Any) -> str:
    """By the prepared graph itself: continuous batching hands out no logits."""
    import openvino as ov

    from app.runtimes.openvino_llm_files import Setup

    # The cache's precision belongs to continuous batching; here there is one pass and no cache.
    properties = Setup(THREADS, 0, made.manifest.precision).properties
    properties.pop("KV_CACHE_PRECISION")
    path = Path(made.files["model"]) / "openvino_model.xml"
    request = ov.Core().compile_model(path, "CPU", properties).create_infer_request()
    total, count = 0.0, 0
    for paper in papers("test")[:PERPLEXITY_PAPERS]:
        row = tokenizer.encode([" ".join(paper.sentences)])[0]
        request.reset_state()
        ids = np.array([row])
        everything = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(len(row))[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        wanted = {port.any_name for port in request.model_inputs}
        logits = request.infer({k: v for k, v in everything.items() if k in wanted})["logits"][0]
        grown = logits[:-1].astype(np.float64)
        grown -= grown.max(axis=1, keepdims=True)
        chances = grown - np.log(np.exp(grown).sum(axis=1, keepdims=True))
        total -= float(chances[np.arange(len(row) - 1), row[1:]].sum())
        count += len(row) - 1
    return f"{np.exp(total / count):.2f}"


if __name__ == "__main__":
    sys.exit(main())
