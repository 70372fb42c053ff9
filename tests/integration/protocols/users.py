"""The two SDKs behind one way of asking, so that a test is written once and run for both."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai

Json = dict[str, Any]
PNG = base64.b64encode(
    bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")
    + bytes.fromhex("0000000a49444154789c6300010000050001")
).decode()
SCHEMA: Json = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
TOOL_SCHEMA: Json = {"type": "object", "properties": {"place": {"type": "string"}}}


@dataclass
class Call:
    """A call of a tool."""

    id: str
    name: str
    input: Any


@dataclass
class Said:
    """What a model said."""

    text: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    stop: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    id: str = ""
    pieces: int = 0
    """Parts of text that came one by one, of a stream."""
    turn: Json = field(default_factory=dict)
    """The answer as a turn of the conversation, in the client's own terms."""


@dataclass
class Question:
    """What is asked, in nobody's terms."""

    text: str
    system: str = ""
    image: str = ""
    """An address, or `png`."""
    tools: tuple[str, ...] = ()
    forced: bool = False
    one_at_a_time: bool = False
    before: tuple[Json, ...] = ()
    """Turns before, in the client's own terms."""
    results: tuple[tuple[str, str, bool], ...] = ()
    """Call, text, and whether it is an error; in place of a text."""
    cached: bool = False
    max_tokens: int = 400
    stop: tuple[str, ...] = ()
    effort: str = ""
    schema: Json | None = None
    json_mode: bool = False
    user: str = ""
    extra: Json = field(default_factory=dict)


class OpenAIUser:
    """An agent that uses OpenAI's SDK."""

    protocol = "openai"

    def __init__(self, base: str, max_retries: int = 0) -> None:
        self.sdk = openai.OpenAI(base_url=f"{base}/v1", api_key="of-the-client", max_retries=max_retries, timeout=60)

    def body(self, model: str, question: Question) -> Json:
        messages: list[Json] = [{"role": "system", "content": question.system}] if question.system else []
        messages += question.before
        if question.results:
            messages += [{"role": "tool", "tool_call_id": i, "content": t} for i, t, _ in question.results]
        else:
            messages.append({"role": "user", "content": self._content(question)})
        body: Json = {"model": model, "messages": messages, "max_tokens": question.max_tokens}
        if question.tools:
            functions = [{"name": n, "description": f"Does {n}.", "parameters": TOOL_SCHEMA} for n in question.tools]
            body["tools"] = [{"type": "function", "function": f} for f in functions]
        if question.forced:
            body["tool_choice"] = {"type": "function", "function": {"name": question.tools[0]}}
        if question.one_at_a_time:
            body["parallel_tool_calls"] = False
        if question.stop:
            body["stop"] = list(question.stop)
        if question.effort:
            body["reasoning_effort"] = question.effort
        if question.schema:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": question.schema}}
        if question.json_mode:
            body["response_format"] = {"type": "json_object"}
        if question.user:
            body["user"] = question.user
        return body

    def _content(self, question: Question) -> Any:
        part: Json = {"type": "text", "text": question.text}
        if question.cached:
            part["cache_control"] = {"type": "ephemeral"}
        if question.image:
            url = f"data:image/png;base64,{PNG}" if question.image == "png" else question.image
            return [part, {"type": "image_url", "image_url": {"url": url}}]
        return [part] if question.cached else question.text

    def ask(self, model: str, question: Question) -> Said:
        answer = self.sdk.chat.completions.create(**self.body(model, question), extra_body=question.extra or None)
        choice, usage = answer.choices[0], answer.usage
        message = choice.message
        said = Said(
            text=message.content or "",
            thought=getattr(message, "reasoning_content", None) or "",
            calls=[
                Call(c.id, c.function.name, json.loads(c.function.arguments))
                for c in message.tool_calls or ()
                if c.type == "function"
            ],
            stop=choice.finish_reason,
            id=answer.id,
            turn=message.to_dict(),
        )
        assert usage is not None
        return self._counted(said, usage)

    def stream(self, model: str, question: Question) -> Said:
        said = Said()
        arguments: dict[int, str] = {}
        for chunk in self.chunks(model, question):
            said.id = chunk.id
            if chunk.usage is not None:
                self._counted(said, chunk.usage)
            for choice in chunk.choices:
                delta = choice.delta
                said.stop = choice.finish_reason or said.stop
                said.thought += getattr(delta, "reasoning_content", None) or ""
                if delta.content:
                    said.text += delta.content
                    said.pieces += 1
                for call in delta.tool_calls or ():
                    if call.index not in arguments:
                        arguments[call.index] = ""
                        assert call.function is not None
                        said.calls.append(Call(call.id or "", call.function.name or "", None))
                    arguments[call.index] += (call.function.arguments if call.function else None) or ""
        for index, call in enumerate(said.calls):
            call.input = json.loads(arguments[index])
        return said

    def chunks(self, model: str, question: Question) -> Iterator[Any]:
        yield from self.sdk.chat.completions.create(
            **self.body(model, question),
            stream=True,
            stream_options={"include_usage": True},
            extra_body=question.extra or None,
        )

    def _counted(self, said: Said, usage: Any) -> Said:
        said.prompt_tokens, said.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        details = usage.prompt_tokens_details
        said.cached_tokens = (details.cached_tokens or 0) if details is not None else 0
        return said


class AnthropicUser:
    """An agent that uses Anthropic's SDK."""

    protocol = "anthropic"

    def __init__(self, base: str, max_retries: int = 0) -> None:
        self.sdk = anthropic.Anthropic(base_url=base, api_key="of-the-client", max_retries=max_retries, timeout=60)

    def body(self, model: str, question: Question) -> Json:
        if question.results:
            content: Any = [
                {"type": "tool_result", "tool_use_id": i, "content": t, **({"is_error": True} if bad else {})}
                for i, t, bad in question.results
            ]
        else:
            content = self._content(question)
        body: Json = {"model": model, "max_tokens": question.max_tokens}
        body["messages"] = [*question.before, {"role": "user", "content": content}]
        if question.system:
            body["system"] = question.system
        if question.tools:
            body["tools"] = [
                {"name": n, "description": f"Does {n}.", "input_schema": TOOL_SCHEMA} for n in question.tools
            ]
        if question.forced:
            body["tool_choice"] = {"type": "tool", "name": question.tools[0]}
        if question.one_at_a_time:
            body["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
        if question.stop:
            body["stop_sequences"] = list(question.stop)
        if question.effort:
            body["thinking"] = {"type": "adaptive"}
            body["output_config"] = {"effort": question.effort}
        if question.schema:
            body["output_config"] = {"format": {"type": "json_schema", "schema": question.schema}}
        if question.user:
            body["metadata"] = {"user_id": question.user}
        return body

    def _content(self, question: Question) -> Any:
        part: Json = {"type": "text", "text": question.text}
        if question.cached:
            part["cache_control"] = {"type": "ephemeral"}
        if question.image:
            source: Json = {"type": "url", "url": question.image}
            if question.image == "png":
                source = {"type": "base64", "media_type": "image/png", "data": PNG}
            return [part, {"type": "image", "source": source}]
        return [part] if question.cached else question.text

    def ask(self, model: str, question: Question) -> Said:
        return self._said(
            self.sdk.messages.create(**self.body(model, question), extra_body=question.extra or None, stream=False)
        )

    def stream(self, model: str, question: Question) -> Said:
        pieces = 0
        with self.sdk.messages.stream(**self.body(model, question), extra_body=question.extra or None) as stream:
            for event in stream:
                pieces += event.type == "text"
            said = self._said(stream.get_final_message())
        said.pieces = pieces
        return said

    def chunks(self, model: str, question: Question) -> Iterator[Any]:
        yield from self.sdk.messages.create(
            **self.body(model, question), stream=True, extra_body=question.extra or None
        )

    def _said(self, message: Any) -> Said:
        said = Said(id=message.id, stop=message.stop_reason)
        for block in message.content:
            if block.type == "text":
                said.text += block.text
            elif block.type == "thinking":
                said.thought += block.thinking
            elif block.type == "tool_use":
                said.calls.append(Call(block.id, block.name, block.input))
        usage = message.usage
        said.cached_tokens = usage.cache_read_input_tokens or 0
        said.prompt_tokens = usage.input_tokens + said.cached_tokens + (usage.cache_creation_input_tokens or 0)
        said.completion_tokens = usage.output_tokens
        content = [b.to_dict() for b in message.content]
        said.turn = {"role": "assistant", "content": content}
        return said


User = OpenAIUser | AnthropicUser
USERS: dict[str, type[OpenAIUser] | type[AnthropicUser]] = {"openai": OpenAIUser, "anthropic": AnthropicUser}
