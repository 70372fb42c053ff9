"""Chat exchange: one normalized view of a request and its answer, of OpenAI's chat or completions API. Pure."""

from dataclasses import dataclass
from typing import Any

from llmproxy.protocols.normalize.assemble import Json
from llmproxy.shipper.spans.attributes import cut, integers

_ID = 4096
"""Maximum length of an answer's id."""


@dataclass(frozen=True, slots=True)
class ChatExchange:
    """A request and its answer."""

    id: str
    """Id of the answer, never empty: adapters join the spans of a call by it."""
    request: Json
    """Fields of the request without `messages` and `prompt`."""
    input: Json
    """`messages` or `prompt`, unchanged."""
    answer: Json
    messages: list[Json]
    choices: list[Json]
    """Each with a `message`."""
    functions: list[Json]
    """Functions among the tools of the request."""
    prompt_ids: list[int]
    response_ids: list[list[int]]
    """Token ids of each choice; empty if there are none."""
    logprobs: list[Json]
    """Log-probabilities of the first choice's tokens."""

    @property
    def finish_reasons(self) -> list[str]:
        """Finish reason of each choice."""
        return [cut(str(choice["finish_reason"]), 256) for choice in self.choices if choice.get("finish_reason")]

    @property
    def tool_calls(self) -> list[Json]:
        """Tool calls of the first choice."""
        message = self.choices[0].get("message")
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def read_exchange(request: Json, answer: Json, *, missing_id: str) -> ChatExchange:
    """Return the exchange of a request and an answer with choices; *missing_id* replaces an absent id of the answer."""
    choices = [_choice(item) for item in answer["choices"] if isinstance(item, dict)] or [{"message": {}}]
    answer_id = answer.get("id")
    return ChatExchange(
        id=cut(answer_id, _ID) if isinstance(answer_id, str) and answer_id else missing_id,
        request={name: value for name, value in request.items() if name not in {"messages", "prompt"}},
        input={name: value for name, value in request.items() if name in {"messages", "prompt"}},
        answer=answer,
        messages=_messages(request),
        choices=choices,
        functions=_functions(request),
        prompt_ids=integers(answer.get("prompt_token_ids")) or integers(choices[0].get("prompt_token_ids")) or [],
        response_ids=[_token_ids(choice) for choice in choices],
        logprobs=_logprobs(choices[0]),
    )


def _messages(request: Json) -> list[Json]:
    messages = request.get("messages")
    if isinstance(messages, list):
        return [message for message in messages if isinstance(message, dict)]
    prompt = request.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else prompt if isinstance(prompt, list) else []
    return [{"role": "user", "content": text} for text in texts if isinstance(text, str)]


def _choice(choice: Json) -> Json:
    """Return a choice in the shape of chat: the completions API has a text in place of a message."""
    if "message" in choice or not isinstance(choice.get("text"), str):
        return choice
    return {**choice, "message": {"role": "assistant", "content": choice["text"]}}


def _functions(request: Json) -> list[Json]:
    tools = request.get("tools")
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    if not functions and isinstance(request.get("functions"), list):
        functions = request["functions"]
    return [function for function in functions if isinstance(function, dict) and function.get("name")]


def _token_ids(choice: Json) -> list[int]:
    more = choice.get("provider_specific_fields")
    return (
        integers(choice.get("token_ids")) or (integers(more.get("token_ids")) if isinstance(more, dict) else None) or []
    )


def _logprobs(choice: Json) -> list[Json]:
    logprobs: Any = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return []
    content = logprobs.get("content")
    if isinstance(content, list):
        return [item for item in content if isinstance(item, dict)]
    tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if isinstance(tokens, list) and isinstance(values, list):
        return [{"token": token, "logprob": value} for token, value in zip(tokens, values, strict=False)]
    return []
