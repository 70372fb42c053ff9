"""How many tokens an answer of OpenAI's protocol says that it used, plain or as the chunk of a stream. Pure."""

import msgspec

from llmproxy.protocols.usage_json import Chunk, Usage, read_answer


def answer_tokens(body: bytes) -> int | None:
    """Return the tokens that a plain answer says it used, None if it does not say."""
    try:
        usage = read_answer(body).usage
    except msgspec.MsgspecError:
        return None
    return None if usage is None else _total(usage)


def chunk_tokens(chunk: Chunk) -> int | None:
    """Return the tokens that a stream's chunk says were used, None if it does not say."""
    return None if chunk.usage is None else _total(chunk.usage)


def _total(usage: Usage) -> int:
    return usage.total_tokens or usage.prompt_tokens + usage.completion_tokens
