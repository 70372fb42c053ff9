"""What is read of an answer of OpenAI's protocol, plain or as the chunk of a stream.

Types that JSON is decoded into stand in modules that are not compiled: msgspec reads their annotations, of which a
compiled module keeps less.
"""

from collections.abc import Callable

import msgspec


class Usage(msgspec.Struct):
    """Tokens."""

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
    usage: Usage | None = None
    error: object = None


class Answer(msgspec.Struct):
    """A plain answer."""

    usage: Usage | None = None


read_chunk: Callable[[bytes], Chunk] = msgspec.json.Decoder(Chunk).decode
read_answer: Callable[[bytes], Answer] = msgspec.json.Decoder(Answer).decode
