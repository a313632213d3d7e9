"""Text to sentences, in linear time whatever the text looks like.

The library knows each language's abbreviations and quotes. Two things are done around it. Items
of a list and paragraphs are told apart here, because it joins numbered lines. And it is given a
window at a time: its effort grows with the square of a line (36 s for 200,000 characters of
Chinese), so that one caller could stop a worker.
"""

import re
from collections.abc import Iterator

import sentencex

WINDOW = 1_000  # characters given to the library at once
_LIST_MARK = r"[ \t]*(?:[-*+•‣–]|\(?\d{1,3}[.)])[ \t]+"
_BLOCK_END = re.compile(rf"\n[ \t]*(?:\r?\n)+|\n(?={_LIST_MARK})|\r\n(?={_LIST_MARK})|\u2029")
_MARK = re.compile(_LIST_MARK)
_WORD = re.compile(r"\w")


def split(text: str, language: str) -> list[str]:
    """Sentences in order, white space evened out, list marks and bare decoration left out.

    A text without a single letter or digit is one sentence.
    """
    found = [
        " ".join(sentence.split())
        for block in _BLOCK_END.split(text)
        for sentence in _segments(_without_mark(block), language)
    ]
    return [sentence for sentence in found if _WORD.search(sentence)] or [text.strip()]


def _without_mark(block: str) -> str:
    mark = _MARK.match(block)
    return block[mark.end() :] if mark else block


def _segments(block: str, language: str) -> Iterator[str]:
    """The block's sentences. The last one of a window may go on, so the next window begins there.

    A sentence longer than a window is put together from several.
    """
    start, unfinished = 0, ""
    while len(block) - start > WINDOW:
        window = block[start : start + WINDOW]
        pieces = sentencex.segment(language, window)
        if len(pieces) > 1:
            yield unfinished + pieces[0]
            yield from pieces[1:-1]
            unfinished = ""
            start += len(window) - len(pieces[-1])
        else:
            end = window.rfind(" ") + 1 or len(window)
            unfinished += window[:end]
            start += end
    pieces = sentencex.segment(language, block[start:]) or [""]
    yield unfinished + pieces[0]
    yield from pieces[1:]
