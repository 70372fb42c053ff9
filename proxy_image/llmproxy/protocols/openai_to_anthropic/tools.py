"""Tools of either API in the words of the other. Pure.

OpenAI                                            Anthropic
{type: function, function: {name, parameters}}    {name, input_schema}
tool_choice auto, none, required, {function}      {type: auto}, {type: none}, {type: any}, {type: tool, name}
parallel_tool_calls: false                        tool_choice.disable_parallel_tool_use: true
"""

from typing import Any

from llmproxy.protocols.anthropic_client_tools import client_tool
from llmproxy.protocols.json_fields import Fields, Json, MappingError, refuse_unknown, value

_TOOL = frozenset({
    *("type", "name", "description", "input_schema", "strict", "cache_control", "eager_input_streaming"),
    *("defer_loading", "input_examples", "allowed_callers"),
})  # fmt: skip
_FUNCTION = frozenset({"name", "description", "parameters", "strict"})
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_FROM_CHOICES = {chat: ours for ours, chat in _CHOICES.items()}
NO_PARAMETERS: Json = {"type": "object", "properties": {}}


def tools(fields: Fields, *, keep_cache_control: bool, strict: bool) -> Json:
    """Return `tools`, `tool_choice` and `parallel_tool_calls` of a chat completion request."""
    declared = value(fields, "tools", list[dict[str, Any]], "a list of tools") or []
    functions: list[Json] = []
    for i, tool in enumerate(declared):
        if tool.get("type") in {None, "custom"}:
            functions.append(_function(tool, f"tools.{i}", keep_cache_control=keep_cache_control, strict=strict))
        elif (function := client_tool(tool)) is not None:
            functions.append({"type": "function", "function": function})
        elif str(tool["type"]).startswith("web_search") and len(declared) > 1:
            continue  # an offer beside others
        elif strict:
            raise MappingError(
                f"tools.{i}.type",
                f"{tool['type']!r} runs at Anthropic, or has a schema that only Anthropic's models know: offer a "
                "tool of your own",
            )
        else:
            functions.append(tool)
    if not functions:
        return {}
    settings: Json = {"tools": functions}
    choice = value(fields, "tool_choice", dict[str, Any], "an object")
    if choice is not None:
        settings["tool_choice"] = _chat_choice(choice)
        if choice.get("disable_parallel_tool_use") is True:
            settings["parallel_tool_calls"] = False
    return settings


def _function(tool: Json, path: str, *, keep_cache_control: bool, strict: bool) -> Json:
    if strict:
        refuse_unknown(tool, _TOOL, path)
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str):
        raise MappingError(f"{path}.name", "must be a string")
    if not isinstance(schema, dict):
        raise MappingError(f"{path}.input_schema", "must be a JSON schema")
    function: Json = {"name": name}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    function["parameters"] = schema
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    chat_tool: Json = {"type": "function", "function": function}
    if keep_cache_control and tool.get("cache_control"):
        chat_tool["cache_control"] = tool["cache_control"]
    return chat_tool


def _chat_choice(choice: Json) -> str | Json:
    kind = choice.get("type")
    if kind == "tool" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    if isinstance(kind, str) and kind in _CHOICES:
        return _CHOICES[kind]
    raise MappingError("tool_choice.type", "must be auto, any, none, or tool with a name")


def anthropic_tools(fields: Fields) -> Json:
    """Return `tools` and `tool_choice` of a messages request."""
    declared = value(fields, "tools", list[dict[str, Any]], "a list of tools") or []
    client_tools = [_tool(tool, f"tools.{i}") for i, tool in enumerate(declared)]
    if not client_tools:
        return {}
    settings: Json = {"tools": client_tools}
    choice = value(fields, "tool_choice", str | dict[str, Any], "a string or an object")
    parallel = value(fields, "parallel_tool_calls", bool, "true or false")
    if choice is not None or parallel is False:
        settings["tool_choice"] = _choice("auto" if choice is None else choice)
        if parallel is False and settings["tool_choice"]["type"] != "none":
            settings["tool_choice"]["disable_parallel_tool_use"] = True
    return settings


def _tool(tool: Json, path: str) -> Json:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise MappingError(f"{path}.type", "must be function: Anthropic has no other tools in OpenAI's form")
    refuse_unknown(function, _FUNCTION, f"{path}.function")
    if not isinstance(function.get("name"), str):
        raise MappingError(f"{path}.function.name", "must be a string")
    client_tool: Json = {"name": function["name"]}
    if function.get("description") is not None:
        client_tool["description"] = function["description"]
    client_tool["input_schema"] = function.get("parameters") or NO_PARAMETERS
    if function.get("strict") is not None:
        client_tool["strict"] = function["strict"]
    if tool.get("cache_control"):
        client_tool["cache_control"] = tool["cache_control"]
    return client_tool


def _choice(choice: str | Json) -> Json:
    if isinstance(choice, str) and choice in _FROM_CHOICES:
        return {"type": _FROM_CHOICES[choice]}
    function = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return {"type": "tool", "name": function["name"]}
    raise MappingError("tool_choice", "must be auto, none, required, or a function by its name")
