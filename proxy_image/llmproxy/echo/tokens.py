"""A toy tokenizer: the same text always gives the same pieces, ids and log-probabilities. Pure.

A piece is a word with the white space before it, so pieces joined are the text again. It stands for a real tokenizer
only as far as that: ids are within a usual vocabulary and say nothing.
"""

import re
import zlib

END = 2
"""Id of the piece that ends an answer, which has no text."""
FIRST_ID = 256
VOCABULARY = 50_000

_PIECE = re.compile(r"\s*\S+|\s+$")


def pieces(text: str) -> list[str]:
    """Return *text* in pieces, none of them empty."""
    return _PIECE.findall(text)


def token_id(piece: str) -> int:
    """Return the id of *piece*; of no piece, the one that ends an answer."""
    if not piece:
        return END
    return FIRST_ID + zlib.crc32(piece.encode()) % (VOCABULARY - FIRST_ID)


def token_ids(text: str) -> list[int]:
    """Return the ids of *text*."""
    return [token_id(piece) for piece in pieces(text)]


def logprob(piece: str) -> float:
    """Return a log-probability for *piece*, between -2 and 0."""
    return -round(0.001 + token_id(piece) % 2000 / 1000, 3)
