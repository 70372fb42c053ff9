"""Parts of a response of the Responses API: items, usage, and the response around them. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from llmproxy.protocols.json_fields import Fields, Json, decode
from llmproxy.protocols.responses_to_openai.request import keep
from llmproxy.protocols.responses_to_openai.tools import Tools

_PREFIX = "chatcmpl-"
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ECHOED: Mapping[str, Any] = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True, "reasoning": None,
    "temperature": None, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": None,
}  # fmt: skip


class ResponseFields:
    """The fields of a response beside its items, and the ids of those."""

    def __init__(self, fields: Fields, ident: str | None, model: str | None, created_s: int) -> None:
        """*fields* are the request's, *ident* is the chat completion's."""
        self.ident = (ident or str(created_s)).removeprefix(_PREFIX)
        self._model = model or ""
        self.tools = Tools(fields, strict=False)
        self._created_s = created_s
        self._echoed = {name: _setting(fields.get(name), default) for name, default in _ECHOED.items()}

    def response(self, output: list[Json], *, finish: str | None = None, usage: Json | None = None) -> Json:
        """Return a response that is on its way, or with *finish* (chat's reason) one that has ended."""
        reason = _INCOMPLETE.get(finish or "")
        status = "in_progress" if finish is None else "completed" if reason is None else "incomplete"
        return {
            "id": f"resp_{self.ident}",
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self._model,
            "output": output,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": usage,
            **self._echoed,
        }

    def message(self, content: list[Json], *, status: str = "completed", index: int = 0) -> Json:
        """Return the item of a message; *index* is its place in the output."""
        own = self._own("msg", index)
        return {"id": own, "type": "message", "role": "assistant", "status": status, "content": content}

    def reasoning(
        self, thought: str, blocks: Iterable[Json] = (), *, status: str = "completed", index: int = 0
    ) -> Json:
        """Return the item of reasoning; *blocks* are signed thinking, to be given back."""
        content = [{"type": "reasoning_text", "text": thought}] if thought else []
        encrypted = {"encrypted_content": keep(thinking)} if (thinking := list(blocks)) else {}
        own = self._own("rs", index)
        item = {"id": own, "type": "reasoning", "summary": [], "content": content, "status": status}
        return item | encrypted

    def call(self, number: int, ident: str | None, name: str, arguments: str, *, status: str = "completed") -> Json:
        """Return the item of a tool that is to be called."""
        own = f"fc_{self.ident}_{number}"
        return self.tools.item(own, ident or own, name, arguments, status)

    def _own(self, kind: str, index: int) -> str:
        return f"{kind}_{self.ident}_{index}" if index else f"{kind}_{self.ident}"


def last_status(finish: str | None) -> str:
    """Return the status of the item that an answer ended in, by chat's reason."""
    return "incomplete" if finish in _INCOMPLETE else "completed"


def text_part(text: str, logprobs: list[Json] | None = None) -> Json:
    """Return a part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def refusal_part(text: str) -> Json:
    """Return the part of a message that declines."""
    return {"type": "refusal", "refusal": text}


def _setting(raw: msgspec.Raw | None, default: object) -> object:
    content = None if raw is None else decode(raw)
    return default if content is None else content
