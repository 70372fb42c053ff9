"""A chunk of a chat completion's stream: what is read of it for a streamed response. Pure."""

from typing import Any

import msgspec

from llmproxy.protocols import openai_schemas
from llmproxy.protocols.responses_to_openai.items import Logprobs
from llmproxy.protocols.sse import Json


class Delta(openai_schemas.Delta):
    """A piece of a message, with the blocks of thought that LiteLLM adds."""

    thinking_blocks: list[Json] | None = None


class Choice(msgspec.Struct):
    """A choice in a chunk."""

    index: int = 0
    delta: Delta | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Chunk(openai_schemas.Head):
    """A chunk."""

    choices: list[Choice] | None = None
    error: Any = None
