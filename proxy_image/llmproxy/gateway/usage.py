"""What an answer of OpenAI's protocol says that it used, plain or as the chunk of a stream. Pure.

Types that JSON is decoded into stand in modules that are not compiled: msgspec reads their annotations, of which a
compiled module keeps less.
"""

from collections.abc import Callable

import msgspec


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Choice(msgspec.Struct):
    """One choice of a chunk."""

    index: int | None = 0
    finish_reason: object = None


class Chunk(msgspec.Struct):
    """One event of a stream."""

    choices: list[Choice] | None = None
    usage: _Usage | None = None
    error: object = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


read_chunk: Callable[[bytes], Chunk] = msgspec.json.Decoder(Chunk).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


def answer_tokens(body: bytes) -> int | None:
    """Return the tokens that a plain answer says it used, None if it does not say."""
    try:
        usage = _decode_answer(body).usage
    except msgspec.MsgspecError:
        return None
    return None if usage is None else _total(usage)


def chunk_tokens(chunk: Chunk) -> int | None:
    """Return the tokens that a stream's chunk says were used, None if it does not say."""
    return None if chunk.usage is None else _total(chunk.usage)


def _total(usage: _Usage) -> int:
    return usage.total_tokens or usage.prompt_tokens + usage.completion_tokens
