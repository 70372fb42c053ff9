"""A messages stream (Anthropic's) from a chat completion's stream, event by event as it comes. Pure.

message_start, ping, then for each block content_block_start, content_block_delta..., content_block_stop, then
message_delta with the true usage, message_stop. OpenAI tells the usage last, so message_start has the input tokens only
if its first chunk does, else 0. Blocks of tool calls follow each other: pieces of
a later call wait until the earlier one is whole.
"""

from typing import Any, Final

from llmproxy.protocols import stop_reasons, usage
from llmproxy.protocols.anthropic_to_openai.response import message_id, tool_id
from llmproxy.protocols.errors import anthropic_error, anthropic_type
from llmproxy.protocols.events import AnswerFailure
from llmproxy.protocols.json_fields import Json, encode
from llmproxy.protocols.openai_schemas import (
    AnswerError,
    ChatChunk,
    ChunkChoice,
    FunctionCall,
    ToolCallDelta,
    read_chunk,
)
from llmproxy.protocols.sse import anthropic_event, text_bytes
from llmproxy.protocols.tool_calls import StreamedCalls
from llmproxy.protocols.translated_stream import TranslatedStream

_DELTAS: Final = {
    "text": b'"text_delta","text":',
    "thinking": b'"thinking_delta","thinking":',
    "tool": b'"input_json_delta","partial_json":',
}
_DELTA: Final = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b%b}}\n\n'
"""Nearly all of a stream are these: only their text is encoded."""


class MessagesStream(TranslatedStream):
    """One stream."""

    def __init__(self) -> None:
        super().__init__()
        self._id = ""
        self._started = False
        self._blocks = 0
        self._open = ""
        """Kind of the open block: text, thinking, tool, or none."""
        self._calls = StreamedCalls()
        self._call_blocks: dict[int, int] = {}
        """Index of the content block of each call that has begun."""
        self._waiting: dict[int, list[str]] = {}
        """Arguments that are not sent yet."""
        self._current = 0
        """Number of the call whose turn it is: blocks follow each other, also where a server mixes their pieces."""
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
        except AnswerError as exc:
            return self._broken(f"the model server sent a chunk that is none of a chat completion: {exc}")
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
        if choice.finish_reason:
            self._finish, self._matched = choice.finish_reason, choice.stop_reason

    def _words(self, kind: str, text: str, out: list[bytes]) -> None:
        if self._open != kind:
            self._send_calls(out, last=True)
            block = {"type": "thinking", "thinking": "", "signature": ""} if kind == "thinking" else {}
            self._begin(kind, block or {"type": "text", "text": ""}, out)
        out.append(_delta(self._blocks - 1, kind, text))

    def _tool(self, delta: ToolCallDelta, out: list[bytes]) -> None:
        function = delta.function or FunctionCall()
        arguments = function.arguments or ""
        call = self._calls.add(delta.index, delta.id or "", function.name or "", arguments)
        if call.number < self._current:  # its block is closed: a call that looked whole goes on
            if arguments.strip() and call.number in self._call_blocks:
                out.append(_delta(self._call_blocks[call.number], "tool", arguments))
            return
        self._waiting.setdefault(call.number, []).append(arguments)
        self._send_calls(out, last=False)

    def _send_calls(self, out: list[bytes], *, last: bool) -> None:
        """Send the pieces of the call whose turn it is; the next one's when it is whole, or nothing else comes."""
        calls = self._calls.calls
        while self._current < len(calls):
            call = calls[self._current]
            if call.name:
                if call.number not in self._call_blocks:
                    ident = call.id or tool_id(self._id, call.number)
                    self._begin("tool", {"type": "tool_use", "id": ident, "name": call.name, "input": {}}, out)
                    self._call_blocks[call.number] = self._blocks - 1
                if arguments := "".join(self._waiting.pop(call.number, ())):
                    out.append(_delta(self._call_blocks[call.number], "tool", arguments))
            if not (last or (self._current + 1 < len(calls) and call.is_complete())):
                return
            self._current += 1

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
        finish = stop_reasons.openai_finish(self._finish)
        if finish is None:
            return self._broken(f"the model server ended its answer with finish_reason {self._finish!r}")
        self.done = True
        out: list[bytes] = []
        self._send_calls(out, last=True)
        self._close(out)
        reason, matched = stop_reasons.stop_reason(
            finish, self._matched, called=bool(self._call_blocks), refused=self._refused
        )
        delta = {"stop_reason": reason, "stop_sequence": matched}
        last = {"type": "message_delta", "delta": delta, "usage": usage.to_anthropic(self._usage)}
        out.append(anthropic_event("message_delta", last))
        out.append(anthropic_event("message_stop", {"type": "message_stop"}))
        return b"".join(out)

    def _error(self, failure: AnswerFailure) -> bytes:
        return anthropic_event("error", anthropic_error(failure.message, anthropic_type(failure.status)))


def _delta(index: int, kind: str, text: str) -> bytes:
    return _DELTA % (index, _DELTAS[kind], text_bytes(encode(text)))
