"""One reading of a request and its answer, of either of OpenAI's text APIs and from any server. Pure."""

from dataclasses import dataclass
from typing import Any

from llmproxy.protocols.normalize.assemble import Json
from llmproxy.shipper.spans.attributes import cut, integers

_ID = 4096
"""Characters of an answer's id."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was asked and answered."""

    id: str
    """Of the answer. Adapters know by it that two spans are of one call, so it is never empty."""
    request: Json
    """Its fields but for messages and prompt."""
    said: Json
    """Messages or prompt, as they were sent."""
    answer: Json
    messages: list[Json]
    choices: list[Json]
    """Each with a `message`."""
    functions: list[Json]
    """The tools that were offered."""
    prompt_ids: list[int]
    response_ids: list[list[int]]
    """Of each choice; empty where there are none."""
    logprobs: list[Json]
    """Of the first choice's tokens."""

    @property
    def finish_reasons(self) -> list[str]:
        """Why each choice ended."""
        return [cut(str(choice["finish_reason"]), 256) for choice in self.choices if choice.get("finish_reason")]

    @property
    def tool_calls(self) -> list[Json]:
        """The tools that the first choice calls."""
        message = self.choices[0].get("message")
        found = message.get("tool_calls") if isinstance(message, dict) else None
        return [call for call in found if isinstance(call, dict)] if isinstance(found, list) else []


def converse(request: Json, answer: Json, *, missing_id: str) -> Conversation:
    """Return the reading of a request and an answer that has choices; *missing_id* stands in for an answer's id."""
    choices = [_choice(item) for item in answer["choices"] if isinstance(item, dict)] or [{"message": {}}]
    found = answer.get("id")
    return Conversation(
        id=cut(found, _ID) if isinstance(found, str) and found else missing_id,
        request={name: value for name, value in request.items() if name not in {"messages", "prompt"}},
        said={name: value for name, value in request.items() if name in {"messages", "prompt"}},
        answer=answer,
        messages=_messages(request),
        choices=choices,
        functions=_functions(request),
        prompt_ids=integers(answer.get("prompt_token_ids")) or integers(choices[0].get("prompt_token_ids")) or [],
        response_ids=[_token_ids(choice) for choice in choices],
        logprobs=_logprobs(choices[0]),
    )


def _messages(request: Json) -> list[Json]:
    found = request.get("messages")
    if isinstance(found, list):
        return [message for message in found if isinstance(message, dict)]
    prompt = request.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else prompt if isinstance(prompt, list) else []
    return [{"role": "user", "content": text} for text in texts if isinstance(text, str)]


def _choice(choice: Json) -> Json:
    """Return a choice in the shape of chat: the older API has a text in place of a message."""
    if "message" in choice or not isinstance(choice.get("text"), str):
        return choice
    return {**choice, "message": {"role": "assistant", "content": choice["text"]}}


def _functions(request: Json) -> list[Json]:
    tools = request.get("tools")
    found = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    if not found and isinstance(request.get("functions"), list):
        found = request["functions"]
    return [function for function in found if isinstance(function, dict) and function.get("name")]


def _token_ids(choice: Json) -> list[int]:
    more = choice.get("provider_specific_fields")
    return (
        integers(choice.get("token_ids")) or (integers(more.get("token_ids")) if isinstance(more, dict) else None) or []
    )


def _logprobs(choice: Json) -> list[Json]:
    found: Any = choice.get("logprobs")
    if not isinstance(found, dict):
        return []
    content = found.get("content")
    if isinstance(content, list):
        return [item for item in content if isinstance(item, dict)]
    tokens, values = found.get("tokens"), found.get("token_logprobs")
    if isinstance(tokens, list) and isinstance(values, list):
        return [{"token": token, "logprob": value} for token, value in zip(tokens, values, strict=False)]
    return []
