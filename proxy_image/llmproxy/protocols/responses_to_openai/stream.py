"""The events of a streamed response from a chat completion's stream, as they come. Pure: time is given.

response.created and response.in_progress; for each item output_item.added, what comes of it, output_item.done; then
response.completed or response.incomplete, with the whole response. What was thought and said ends when another kind
begins, function calls at the end: servers may send pieces of several calls in turn.
"""

from typing import Final

from llmproxy.protocols import usage
from llmproxy.protocols.errors import openai_error
from llmproxy.protocols.events import AnswerFailure
from llmproxy.protocols.json_fields import Fields, Json
from llmproxy.protocols.openai_schemas import (
    AnswerError,
    ChatChunk,
    ChunkChoice,
    FunctionCall,
    ToolCallDelta,
    read_chunk,
)
from llmproxy.protocols.responses_to_openai.items import ResponseFields, last_status, refusal_part, text_part
from llmproxy.protocols.sse import anthropic_event
from llmproxy.protocols.stop_reasons import openai_finish
from llmproxy.protocols.tool_calls import StreamedCalls
from llmproxy.protocols.translated_stream import TranslatedStream


class _TextItem:
    """An output item of text that grows: `reasoning`, `text` or `refusal`."""

    def __init__(self, kind: str, index: int) -> None:
        self.kind = kind
        self.index = index
        self.text = ""
        self.has_part = False
        """Its content part has been added; thinking that is only signed has none."""
        self.logprobs: list[Json] = []
        self.blocks: list[Json] = []


def error_event(message: str, kind: str, param: str | None, code: str | None, number: int | None = None) -> bytes:
    """Return the API's own event `error`; with the field `error` in it, OpenAI's SDKs raise it as an APIError."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    counted = {} if number is None else {"sequence_number": number}
    event = {"type": "error", "code": code, "message": message, "param": param, "error": error, **counted}
    return anthropic_event("error", event)


class ResponseStream(TranslatedStream):
    """One stream."""

    def __init__(self, fields: Fields, created_s: int) -> None:
        super().__init__()
        self._fields = fields
        self._created_s = created_s
        self._head: ResponseFields | None = None
        self._number = 0
        self._items: list[Json] = []
        self._words: _TextItem | None = None
        self._calls = StreamedCalls()
        self._places: dict[int, int] = {}
        """Index of the item of each call that has begun."""
        self._finish: str | None = None
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
        head = self._head or self._start(chunk, out)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._choice(head, choice, out)
        return b""

    def _start(self, chunk: ChatChunk, out: list[bytes]) -> ResponseFields:
        head = self._head = ResponseFields(self._fields, chunk.id, chunk.model, self._created_s)
        names = ("response.created", "response.in_progress")
        out.extend(self._event(name, response=head.response([])) for name in names)
        return head

    def _choice(self, head: ResponseFields, choice: ChunkChoice, out: list[bytes]) -> None:
        delta = choice.delta
        if delta is not None:
            thought = delta.thought
            if thought or delta.thinking_blocks:
                self._say(head, "reasoning", thought, out).blocks.extend(delta.thinking_blocks or ())
            if delta.content:
                probs = (choice.logprobs.content if choice.logprobs is not None else None) or []
                self._say(head, "text", delta.content, out, probs)
            if delta.refusal:
                self._say(head, "refusal", delta.refusal, out)
            for call in delta.tool_calls or ():
                self._call(head, call, out)
        if choice.finish_reason:
            self._finish = choice.finish_reason

    def _say(
        self, head: ResponseFields, kind: str, text: str, out: list[bytes], logprobs: list[Json] | None = None
    ) -> _TextItem:
        words = self._words
        if words is None or words.kind != kind:
            self._end_words(head, out)
            words = self._words = _TextItem(kind, len(self._items))
            item = _item(head, words, status="in_progress")
            self._items.append(item)
            out.append(self._event("response.output_item.added", output_index=words.index, item=item))
        if not words.has_part and (text or kind != "reasoning"):
            words.has_part = True
            at = _at(self._items[words.index], words)
            out.append(self._event("response.content_part.added", **at, part=_part(words)))
        words.text += text
        if text:
            more = {"logprobs": logprobs or []} if kind == "text" else {}
            words.logprobs += logprobs or []
            at = _at(self._items[words.index], words)
            out.append(self._event(f"response.{_NAMES[kind]}.delta", **at, delta=text, **more))
        return words

    def _end_words(self, head: ResponseFields, out: list[bytes], status: str = "completed") -> None:
        words, self._words = self._words, None
        if words is None:
            return
        item = self._items[words.index] = _item(head, words, status=status)
        at = _at(item, words)
        if words.kind == "refusal":
            out.append(self._event("response.refusal.done", **at, refusal=words.text))
        elif words.kind == "text":
            out.append(self._event("response.output_text.done", **at, text=words.text, logprobs=words.logprobs))
        elif words.has_part:
            out.append(self._event("response.reasoning_text.done", **at, text=words.text))
        if words.has_part:
            out.append(self._event("response.content_part.done", **at, part=_part(words)))
        out.append(self._event("response.output_item.done", output_index=words.index, item=item))

    def _call(self, head: ResponseFields, delta: ToolCallDelta, out: list[bytes]) -> None:
        function = delta.function or FunctionCall()
        arguments = function.arguments or ""
        call = self._calls.add(delta.index, delta.id or "", function.name or "", arguments)
        place = self._places.get(call.number, -1)
        if place < 0:
            if not call.name:
                return
            self._end_words(head, out)
            arguments, place = call.arguments, len(self._items)
            self._places[call.number] = place
            item = head.call(call.number, call.id or None, call.name, "", status="in_progress")
            self._items.append(item)
            out.append(self._event("response.output_item.added", output_index=place, item=item))
        if arguments and head.tools.kind(call.name) == "function":
            at = {"item_id": self._items[place]["id"], "output_index": place}
            out.append(self._event("response.function_call_arguments.delta", **at, delta=arguments))

    def _end_calls(self, head: ResponseFields, out: list[bytes]) -> None:
        for call in self._calls.calls:
            place = self._places.get(call.number, -1)
            if place < 0:
                continue
            status = last_status(self._finish if place == len(self._items) - 1 else None)
            item = head.call(call.number, call.id or None, call.name, call.arguments, status=status)
            self._items[place] = item
            at = {"item_id": item["id"], "output_index": place}
            kind = head.tools.kind(call.name)
            if kind == "custom":  # its input is a string inside JSON: it is known at the end
                out.append(self._event("response.custom_tool_call_input.delta", **at, delta=item["input"]))
                out.append(self._event("response.custom_tool_call_input.done", **at, input=item["input"]))
            elif kind == "function":
                done = {"name": item["name"], "arguments": call.arguments}
                out.append(self._event("response.function_call_arguments.done", **at, **done))
            out.append(self._event("response.output_item.done", output_index=place, item=item))

    def _stop(self) -> bytes:
        head = self._head
        if head is None:
            return self._broken("the model server sent no answer")
        finish = openai_finish(self._finish)
        if finish is None:
            return self._broken(f"the model server ended its answer with finish_reason {self._finish!r}")
        self._finish = finish
        self.done = True
        out: list[bytes] = []
        if not self._items:
            self._say(head, "text", "", out)
        self._end_words(head, out, last_status(self._finish))
        self._end_calls(head, out)
        response = head.response(self._items, finish=finish, usage=usage.to_responses(self._usage))
        out.append(self._event(f"response.{response['status']}", response=response))
        return b"".join(out)

    def _error(self, failure: AnswerFailure) -> bytes:
        details = openai_error(failure.message, failure.status)["error"]
        return error_event(failure.message, details["type"], None, details["code"], self._number)

    def _event(self, kind: str, /, **content: object) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **content}
        self._number += 1
        return anthropic_event(kind, event)


_NAMES: Final = {"text": "output_text", "refusal": "refusal", "reasoning": "reasoning_text"}


def _part(words: _TextItem) -> Json:
    if words.kind == "reasoning":
        return {"type": "reasoning_text", "text": words.text}
    return refusal_part(words.text) if words.kind == "refusal" else text_part(words.text, words.logprobs)


def _item(head: ResponseFields, words: _TextItem, *, status: str) -> Json:
    if words.kind == "reasoning":
        return head.reasoning(words.text, words.blocks, status=status, index=words.index)
    return head.message([_part(words)] if status != "in_progress" else [], status=status, index=words.index)


def _at(item: Json, words: _TextItem) -> Json:
    return {"item_id": item["id"], "output_index": words.index, "content_index": 0}
