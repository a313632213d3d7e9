"""The pinned tools that shape a prepared checkpoint; part of its key.

A constant: a machine that only serves has none of them installed and must find the same key.
tests/unit/test_toolchain.py holds it to the requirements files.
"""

from collections.abc import Mapping

TOOLCHAIN: Mapping[str, str] = {
    "ctranslate2": "4.8.5",
    "nncf": "3.4.0",
    "openvino": "2026.4.1",
    "openvino-tokenizers": "2026.4.1.0",
    "optimum": "2.3.0",
    "optimum-intel": "2.2.0",
    "protobuf": "7.36.2",
    "sentencepiece": "0.2.3",
    "tokenizers": "0.22.2",
    "torch": "2.13.0",
    "transformers": "5.5.4",
}
