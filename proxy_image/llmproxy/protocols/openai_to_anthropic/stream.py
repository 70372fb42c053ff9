"""A chat completion's stream from a messages stream (Anthropic's), event by event as it comes. Pure: time is given."""

from typing import Final

import msgspec

from llmproxy.protocols import stop_reasons, usage
from llmproxy.protocols.anthropic_schemas import ContentBlock, MessageDelta, MessageHead, MessagesEvent, read_event
from llmproxy.protocols.errors import openai_error
from llmproxy.protocols.events import AnswerFailure
from llmproxy.protocols.json_fields import Json, encode
from llmproxy.protocols.openai_to_anthropic.request import JSON_TOOL
from llmproxy.protocols.openai_to_anthropic.response import completion_id
from llmproxy.protocols.sse import openai_event, text_bytes
from llmproxy.protocols.translated_stream import TranslatedStream

DONE: Final = b"data: [DONE]\n\n"
_UNFINISHED: Final = b',"logprobs":null,"finish_reason":null}]}\n\n'


class ChatStream(TranslatedStream):
    """One stream."""

    def __init__(self, created_s: int, *, with_usage: bool) -> None:
        super().__init__()
        self._created_s = created_s
        self._with_usage = with_usage
        self._head: Json = {}
        """Common start of all chunks; as bytes too, since nearly all chunks of a stream differ in a text only."""
        self._head_bytes = _head_bytes({})
        self._blocks: dict[int, ContentBlock] = {}
        self._tools: dict[int, int] = {}
        """Number of the tool call in each block."""
        self._thoughts: dict[int, str] = {}
        self._in_json = False
        self._usage = usage.MessagesUsage()
        self._finished = False

    @property
    def tokens(self) -> int | None:
        """Tokens used so far, None before the first count."""
        return self._usage.total or None

    def _is_complete(self) -> bool:
        return self._finished

    def _read(self, data: bytes, out: list[bytes]) -> bytes:
        try:
            event = read_event(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            return self._broken(f"the model server sent an event that is none of a message: {exc}")
        return self._event(event, out)

    def _event(self, event: MessagesEvent, out: list[bytes]) -> bytes:
        kind = event.type
        if kind == "content_block_delta" and event.delta is not None:
            self._delta(event.index, event.delta, out)
        elif kind == "content_block_start" and event.content_block is not None:
            self._block(event.index, event.content_block, out)
        elif kind == "content_block_stop":
            self._block_stop(event.index, out)
        elif kind == "message_start" and event.message is not None:
            self._start(event.message, out)
        elif kind == "message_delta":
            self._finish(event, out)
        elif kind == "message_stop":
            return self._stop()
        return b""  # pings, and events that are not known yet, as Anthropic asks of its clients

    def _start(self, message: MessageHead, out: list[bytes]) -> None:
        self._head = {
            "id": completion_id(message.id),
            "object": "chat.completion.chunk",
            "created": self._created_s,
            "model": message.model,
        }
        self._head_bytes = _head_bytes(self._head)
        if message.usage is not None:
            self._usage.update(message.usage)
        out.append(self._chunk({"role": "assistant", "content": ""}))

    def _block(self, index: int, block: ContentBlock, out: list[bytes]) -> None:
        self._blocks[index] = block
        if block.type == "text" and block.text:
            out.append(self._chunk({"content": block.text}))
        elif block.type == "redacted_thinking":
            thinking = {"type": "redacted_thinking", "data": block.data}
            out.append(self._chunk({"thinking_blocks": [thinking]}))
        elif block.type == "tool_use" and block.name == JSON_TOOL:
            self._in_json = True
        elif block.type == "tool_use":
            number = self._tools[index] = len(self._tools)
            arguments = bytes(block.input).decode()
            function = {"name": block.name, "arguments": "" if arguments == "{}" else arguments}
            call = {"index": number, "id": block.id, "type": "function", "function": function}
            out.append(self._chunk({"tool_calls": [call]}))

    def _delta(self, index: int, delta: MessageDelta, out: list[bytes]) -> None:
        if delta.type == "text_delta":
            out.append(self._chunk({"content": delta.text}))
        elif delta.type == "thinking_delta":
            self._thoughts[index] = self._thoughts.get(index, "") + delta.thinking
            out.append(self._chunk({"reasoning_content": delta.thinking}))
        elif delta.type == "signature_delta":
            thinking = {"type": "thinking", "thinking": self._thoughts.get(index, ""), "signature": delta.signature}
            out.append(self._chunk({"thinking_blocks": [thinking]}))
        elif delta.type == "input_json_delta" and delta.partial_json:
            number = self._tools.get(index)
            if number is None:
                if self._in_json:
                    out.append(self._chunk({"content": delta.partial_json}))
                return
            self._blocks[index].input = msgspec.Raw(b"")  # the input has come in pieces
            call = {"index": number, "function": {"arguments": delta.partial_json}}
            out.append(self._chunk({"tool_calls": [call]}))

    def _block_stop(self, index: int, out: list[bytes]) -> None:
        number, block = self._tools.get(index), self._blocks.get(index)
        if number is not None and block is not None and bytes(block.input) == b"{}":  # a call without arguments
            call = {"index": number, "function": {"arguments": "{}"}}
            out.append(self._chunk({"tool_calls": [call]}))

    def _finish(self, event: MessagesEvent, out: list[bytes]) -> None:
        if event.usage is not None:
            self._usage.update(event.usage)
        delta = event.delta
        if delta is not None and delta.stop_reason is not None and not self._finished:
            self._finished = True
            reason = "stop" if self._in_json else stop_reasons.finish_reason(delta.stop_reason)
            out.append(self._chunk({}, _finished(reason, delta.stop_sequence)))

    def _stop(self) -> bytes:
        self.done = True
        if not self._with_usage:
            return DONE
        return openai_event({**self._head, "choices": [], "usage": usage.to_openai(self._usage)}) + DONE

    def _error(self, failure: AnswerFailure) -> bytes:
        return openai_event(openai_error(failure.message, failure.status))

    def _chunk(self, delta: Json, finish: bytes = _UNFINISHED) -> bytes:
        return b"%b%b%b" % (self._head_bytes, text_bytes(encode(delta)), finish)


def _head_bytes(head: Json) -> bytes:
    """Return a chunk up to the delta of its one choice."""
    event = openai_event({**head, "choices": [{"index": 0, "delta": None}]})
    return event.removesuffix(b"null}]}\n\n")


def _finished(reason: str, sequence: str | None) -> bytes:
    """Return the rest of a chunk behind its delta."""
    more = {"logprobs": None, "finish_reason": reason} | ({} if sequence is None else {"stop_reason": sequence})
    return b",%b]}\n\n" % text_bytes(encode(more))[1:]
