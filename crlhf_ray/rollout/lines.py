"""From generated tokens to lines of code: cutting at a stop string, and which token belongs to which line.

Everything is counted in bytes. A byte-level BPE token is a string of bytes and need not be whole characters, and the
newline byte is never part of another UTF-8 character, so a completion's lines can be told apart before it is decoded.

A token belongs to the line in which its first byte stands; a newline belongs to the line that it ends. A token such as
``"\\n\\n"`` therefore belongs to the first of the lines it touches, and the empty line after it owns no token. A token
without text (end of sequence, other special tokens) stands where the text before it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from crlhf_ray.errors import ConfigError
from crlhf_ray.rollout.sample import Line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


def split_lines(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[str, tuple[Line, ...]]:
    """The text of ``token_ids`` and its lines.

    token_ids: generated tokens, shape [T]; special tokens carry no text.

    ``"\\n".join(line.text for line in lines) == text``, and the lines' token ranges partition ``[0, T)`` in order.
    There is always at least one line. Bytes that are no UTF-8 become U+FFFD, as in the tokenizer's own decoding.
    """
    pieces = _pieces(token_ids, tokenizer)
    text = b"".join(pieces)
    rows = text.split(b"\n")
    starts = [0]  # the first token of each line
    newlines = 0
    for index, piece in enumerate(pieces):
        newlines += piece.count(b"\n")
        starts.extend([index + 1] * (newlines + 1 - len(starts)))
    ends = [*starts[1:], len(pieces)]
    lines = []
    for number, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
        line = row.decode("utf-8", errors="replace")
        lines.append(Line(number, line, start, end, carries_code(line)))
    return text.decode("utf-8", errors="replace"), tuple(lines)


def carries_code(text: str) -> bool:
    """False for a blank line and for one that holds only a comment. Lines of a string, a docstring too, are code."""
    stripped = text.strip()
    return bool(stripped) and not stripped.startswith("#")


def cut_at_stop(
    token_ids: Sequence[int], stops: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[int, str | None]:
    """How many tokens to keep so that the text ends at the first stop string, and which string that was.

    Kept is every token that starts before the stop string does, so that ids, log-probs and text stay consistent; a
    token that straddles the cut stays whole. Without a stop string all tokens are kept and the string is None.
    """
    pieces = _pieces(token_ids, tokenizer)
    text = b"".join(pieces)
    found = [(text.find(stop.encode()), stop) for stop in stops if stop]
    cut, stop = min(((at, stop) for at, stop in found if at >= 0), default=(None, None))
    if cut is None:
        return len(pieces), None
    position = 0
    for kept, piece in enumerate(pieces):
        if position >= cut:
            return kept, stop
        position += len(piece)
    return len(pieces), stop


def _pieces(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    table = _token_bytes(tokenizer)
    # An embedding padded beyond the vocabulary can yield ids that no token has; they decode to nothing.
    return [table[token] if 0 <= token < len(table) else b"" for token in token_ids]


@lru_cache(maxsize=4)
def _token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """The bytes of every token of the vocabulary, by id.

    Raises ConfigError for a tokenizer whose tokens are not bytes (neither byte-level BPE nor SentencePiece with byte
    fallback).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.dumps(json.loads(backend.to_str())["decoder"]) if backend is not None else ""
    if "ByteLevel" in decoder:
        to_bytes = _byte_level
    elif "ByteFallback" in decoder:
        to_bytes = _sentencepiece
    else:
        raise ConfigError(
            f"the tokenizer {tokenizer.name_or_path!r} ({type(tokenizer).__name__}) is neither byte-level BPE nor "
            "SentencePiece with byte fallback, so its tokens cannot be mapped to lines exactly; take a model whose "
            "tokenizer is one of these (Llama, Qwen, SmolLM, StarCoder, DeepSeek, Mistral and Gemma families are)"
        )
    added = dict(tokenizer.added_tokens_decoder.items())
    vocabulary = tokenizer.get_vocab()
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        if index not in added:
            table[index] = to_bytes(token)
        elif not added[index].special:
            table[index] = added[index].content.encode()
    return table


def _byte_level(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE_FALLBACK.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE spells each byte as one printable character (Radford et al. 2019): itself where it is printable in
    Latin-1, else the next free code point from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
