"""The text that each token stands for, from the bytes that the tokenizer's own decoder would write."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from typing import Any


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One string per token; joined, they are the decoded text (special tokens included).

    A character whose bytes are spread over several tokens belongs to the last of them; the others are "". Bytes that
    are no character become U+FFFD. A tokenizer without a byte-level or byte-fallback decoder decodes id by id.
    """
    write = _byte_writer(tokenizer)
    if write is None:
        return [tokenizer.decode([token_id]) for token_id in ids]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(write(int(token_id))) for token_id in ids]
    if texts:
        texts[-1] += decoder.decode(b"", final=True)
    return texts


def _byte_writer(tokenizer: Any) -> Any:
    """A function from a token id to the bytes that it adds to the text, or None for an unknown decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    decoder = json.dumps(json.loads(backend.to_str())["decoder"] or {})
    if '"ByteLevel"' in decoder:
        byte_of = _byte_level_alphabet()

        def spell(piece: str) -> bytes:
            return bytes(byte_of[character] for character in piece)
    elif '"ByteFallback"' in decoder:  # SentencePiece
        spell = _spell_sentencepiece
    else:
        return None
    return lambda token_id: (
        added[token_id].encode() if token_id in added else spell(tokenizer.convert_ids_to_tokens(token_id) or "")
    )


def _spell_sentencepiece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's stand-in of each byte -> the byte: printable Latin-1 stands for itself, the rest from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}
