"""Brings litellm's answers into the shape that OpenAI's API documents. Pure.

litellm adds fields of its own (`vertex_ai_*`, empty lists of images and thoughts), leaves null ones out, and sends the
usage of a stream in a chunk with an empty choice, where OpenAI sends no choice.
"""

import json
from collections.abc import Mapping
from typing import Any

from llmproxy.translator.escapes import escape

Json = dict[str, Any]


def completion(answer: Mapping[str, Any], model: str) -> Json:
    """Return a whole chat completion."""
    response = _outer(answer, model)
    response["choices"] = [
        {
            **choice,
            "message": _without_empty_lists({"role": "assistant", "content": None, **choice.get("message", {})}),
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in answer.get("choices", ())
    ]
    return response


def chunk(part: Mapping[str, Any], model: str) -> Json:
    """Return a chunk of a stream; one that brings the usage has no choices."""
    response = _outer(part, model)
    if part.get("usage") is not None:
        response["choices"] = []
        return response
    response["choices"] = [
        {**choice, "delta": _without_empty_lists(choice.get("delta", {})), "finish_reason": choice.get("finish_reason")}
        for choice in part.get("choices", ())
    ]
    return response


def embeddings(answer: Mapping[str, Any], model: str) -> Json:
    """Return a list of embeddings."""
    response = _outer(answer, model)
    usage = response.get("usage") or {}
    prompt = usage.get("prompt_tokens", 0)
    response["usage"] = {"prompt_tokens": prompt, "total_tokens": usage.get("total_tokens") or prompt}
    return response


def encode(value: Json) -> bytes:
    """Return *value* as JSON. The three characters that break readers of streams are escaped here too."""
    return escape(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def _outer(answer: Mapping[str, Any], model: str) -> Json:
    fields = {name: value for name, value in answer.items() if value is not None and not name.startswith("vertex_ai_")}
    return {**fields, "model": model}


def _without_empty_lists(message: Mapping[str, Any]) -> Json:
    return {name: value for name, value in message.items() if value != [] or name == "content"}
