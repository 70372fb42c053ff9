"""A messages stream (Anthropic's) from a chat completion's stream, event by event as it comes. Pure.

message_start, ping, then for each block content_block_start, content_block_delta..., content_block_stop, then
message_delta with the true usage, message_stop. OpenAI tells the usage last, so message_start has the input tokens only
if its first chunk does, else 0. A delta for a tool call whose block is closed already goes to that block by its index.
"""

from typing import Any, Final

import msgspec

from llmproxy.protocols import stop_reasons, usage
from llmproxy.protocols.anthropic_to_openai.response import message_id, tool_id
from llmproxy.protocols.errors import anthropic_error, event_to_anthropic
from llmproxy.protocols.json_fields import Json, decode, encode
from llmproxy.protocols.openai_schemas import ChatChunk, ChunkChoice, FunctionCall, ToolCallDelta, read_chunk
from llmproxy.protocols.sse import anthropic_event, text_bytes
from llmproxy.protocols.translated_stream import TranslatedStream

_DELTAS: Final = {
    "text": b'"text_delta","text":',
    "thinking": b'"thinking_delta","thinking":',
    "tool": b'"input_json_delta","partial_json":',
}
_DELTA: Final = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b%b}}\n\n'
"""Nearly all of a stream are these: only their text is encoded."""


class _Tool:
    """A tool call on its way."""

    __slots__ = ("block", "id", "name", "waiting")

    def __init__(self) -> None:
        self.block = -1
        """Index of its content block, -1 until its name is known."""
        self.id = self.name = self.waiting = ""


class MessagesStream(TranslatedStream):
    """One stream."""

    def __init__(self) -> None:
        super().__init__()
        self._id = ""
        self._started = False
        self._blocks = 0
        self._open = ""
        """Kind of the open block: text, thinking, tool, or none."""
        self._open_tool = -1
        self._tools: dict[int, _Tool] = {}
        self._finish: str | None = None
        self._matched: Any = None
        self._refused = False
        self._usage: usage.ChatUsage | None = None

    @property
    def tokens(self) -> int | None:
        """Tokens used, None until the upstream has said."""
        return None if self._usage is None else self._usage.total

    def _is_complete(self) -> bool:
        return self._finish is not None

    def _read(self, data: bytes, out: list[bytes]) -> bytes:
        if data.strip() == b"[DONE]":
            return self._stop()
        try:
            chunk = read_chunk(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            return self._broken(f"the model server sent a chunk that is none of a chat completion: {exc}")
        if chunk.error is not None:
            self.done = self.failed = True
            return anthropic_event("error", event_to_anthropic(decode(data)))
        self._usage = usage.read_chat(chunk.usage) or self._usage
        if not self._started:
            self._start(chunk, out)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._choice(choice, out)
        return b""

    def _start(self, chunk: ChatChunk, out: list[bytes]) -> None:
        self._started = True
        self._id = message_id(chunk.id)
        message: Json = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": chunk.model or "",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage.to_anthropic(self._usage),
        }
        out.append(anthropic_event("message_start", {"type": "message_start", "message": message}))
        out.append(anthropic_event("ping", {"type": "ping"}))

    def _choice(self, choice: ChunkChoice, out: list[bytes]) -> None:
        delta = choice.delta
        if delta is not None:
            if thought := delta.thought:
                self._words("thinking", thought, out)
            if delta.content:
                self._words("text", delta.content, out)
            if delta.refusal:
                self._refused = True
                self._words("text", delta.refusal, out)
            for call in delta.tool_calls or ():
                self._tool(call, out)
        if choice.finish_reason is not None:
            self._finish, self._matched = choice.finish_reason, choice.stop_reason
            self._close(out)

    def _words(self, kind: str, text: str, out: list[bytes]) -> None:
        if self._open != kind:
            block = {"type": "thinking", "thinking": "", "signature": ""} if kind == "thinking" else {}
            self._begin(kind, block or {"type": "text", "text": ""}, out)
        out.append(_delta(self._blocks - 1, kind, text))

    def _tool(self, call: ToolCallDelta, out: list[bytes]) -> None:
        index = call.number(len(self._tools))
        tool = self._tools.setdefault(index, _Tool())
        function = call.function or FunctionCall()
        tool.id = tool.id or call.id or ""
        tool.name = tool.name or function.name or ""
        arguments = function.arguments or ""
        if tool.block < 0:
            tool.waiting += arguments
            if not tool.name:
                return
            arguments, tool.waiting = tool.waiting, ""
            ident = tool.id or tool_id(self._id, index)
            self._begin("tool", {"type": "tool_use", "id": ident, "name": tool.name, "input": {}}, out)
            tool.block = self._blocks - 1
        if arguments:
            out.append(_delta(tool.block, "tool", arguments))

    def _begin(self, kind: str, block: Json, out: list[bytes]) -> None:
        self._close(out)
        self._open = kind
        start = {"type": "content_block_start", "index": self._blocks, "content_block": block}
        out.append(anthropic_event("content_block_start", start))
        self._blocks += 1

    def _close(self, out: list[bytes]) -> None:
        if self._open:
            self._open = ""
            stop = {"type": "content_block_stop", "index": self._blocks - 1}
            out.append(anthropic_event("content_block_stop", stop))

    def _stop(self) -> bytes:
        if not self._started:
            return self._broken("the model server sent no answer")
        self.done = True
        out: list[bytes] = []
        self._close(out)
        reason, matched = stop_reasons.stop_reason(
            self._finish, self._matched, called=any(t.block >= 0 for t in self._tools.values()), refused=self._refused
        )
        delta = {"stop_reason": reason, "stop_sequence": matched}
        last = {"type": "message_delta", "delta": delta, "usage": usage.to_anthropic(self._usage)}
        out.append(anthropic_event("message_delta", last))
        out.append(anthropic_event("message_stop", {"type": "message_stop"}))
        return b"".join(out)

    def _broken(self, problem: str) -> bytes:
        self.done = self.failed = True
        return anthropic_event("error", anthropic_error(problem, "api_error"))


def _delta(index: int, kind: str, text: str) -> bytes:
    return _DELTA % (index, _DELTAS[kind], text_bytes(encode(text)))
