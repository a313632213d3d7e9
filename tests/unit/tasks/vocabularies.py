"""Tokenizers of the usual kinds over small vocabularies, and token ids to try them with."""

from collections.abc import Callable, Sequence

from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel

WORDS = ("▁The", "▁", "▁cat", "s", "é", "日", "▁😀", "</", "s>", "ab", "b", "c")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = 0


class Vocabulary:
    """A tokenizer that is given its vocabulary; every character that it lacks is bytes."""

    max_tokens = 1000

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.decode = decode
        self.decoded_tokens = 0

    def counted(self, token_ids: Sequence[int]) -> str:
        self.decoded_tokens += len(token_ids)
        return self.decode(token_ids)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[1 + byte for byte in text.encode()] for text in texts]


def byte_fallback() -> Vocabulary:
    """As in Llama 2, Mistral and Gemma: a run of bytes is read as a whole."""
    names = ["<s>", *BYTES, *WORDS]
    tokenizer = Tokenizer(WordLevel({name: at for at, name in enumerate(names)}, "<s>"))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Vocabulary(lambda token_ids: tokenizer.decode(list(token_ids)))


def byte_level(errors: str) -> Vocabulary:
    """As in GPT-2 and Llama 3. errors: what a library does with what is no character."""
    parts = [b"", *(bytes([byte]) for byte in range(256))]
    parts += [word.replace("▁", " ").encode() for word in WORDS]
    parts += ["😀".encode()[:3], "日本".encode()[2:4], " 👩‍👩".encode()[:6]]
    return Vocabulary(
        lambda token_ids: b"".join(parts[each] for each in token_ids).decode(errors=errors)
    )


VOCABULARIES = {
    "fallback": byte_fallback(),
    "replaces": byte_level("replace"),
    "drops": byte_level("ignore"),
}
IDS = 257 + len(WORDS)
TEXTS = st.text(alphabet="ab c日é😀👩\u200d", max_size=12)
TOKENS = st.lists(
    st.integers(0, IDS - 1).map(lambda token_id: [token_id])
    | TEXTS.map(lambda text: [1 + byte for byte in text.encode()]),
    max_size=60,
).map(lambda groups: [token_id for group in groups for token_id in group])
