"""Tools of the Responses API as functions of a chat completion, and their calls as items of a response. Pure.

function       a function
custom         a function with one string, `input`; its call comes back as a `custom_tool_call` with the bare string
namespace      its functions, as NAMESPACE__NAME; a call comes back with `name` and `namespace` apart
local_shell    a function by its published schema; its call comes back as a `local_shell_call`
web_search     left out beside other tools, where it is an offer only; refused alone or chosen

All but the last run at the client. Tools that run at a provider are refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from llmproxy.protocols.json_fields import Fields, Json, MappingError, decode, value

LOCAL_SHELL = "local_shell"
_SEPARATOR = "__"
_SEARCH = "web_search"
_HINTS = frozenset({"type", "defer_loading", "allowed_callers", "input_examples", "output_schema"})
_STRING = {"type": "string"}
_SHELL = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": _STRING, "description": "The program and its arguments."},
        "working_directory": _STRING,
        "timeout_ms": {"type": "integer"},
        "env": {"type": "object", "additionalProperties": _STRING},
    },
    "required": ["command"],
}


class ClientTool(NamedTuple):
    """A tool that a client offers, by the name of its function."""

    kind: str
    name: str
    namespace: str | None = None


class Tools:
    """The tools of one request."""

    def __init__(self, fields: Fields, *, strict: bool = True) -> None:
        """Read the tools; raise MappingError for one that does not run at the client, if *strict*."""
        self.functions: list[Json] = []
        self._tools: dict[str, ClientTool] = {}
        self._strict = strict
        declared: list[Json] = value(fields, "tools", list[dict[str, Any]], "a list of objects") or []
        searches = []
        for i, tool in enumerate(declared):
            if str(tool.get("type")).startswith(_SEARCH):
                searches.append(f"tools.{i}.type")
            else:
                self._add(tool, f"tools.{i}")
        if strict and searches and not self.functions and declared[0].get("external_web_access") is not False:
            raise MappingError(searches[0], "web_search runs at the provider, which this model server does not do")

    def choice(self, choice: Any) -> Json:  # noqa: ANN401 - of any JSON value
        """Return `tools` and `tool_choice` of the chat completion request."""
        functions = self.functions
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            names = {self._function_name(tool) for tool in choice.get("tools") or () if isinstance(tool, dict)}
            functions = [tool for tool in functions if tool["function"]["name"] in names]
            choice = choice.get("mode") or "auto"
        elif isinstance(choice, dict):
            name = self._function_name(choice)
            if name not in self._tools:
                raise MappingError("tool_choice", "must be auto, none, required, or name a tool of the request")
            choice = {"type": "function", "function": {"name": name}}
        fields: Json = {"tools": functions} if functions else {}
        return fields if choice is None or not functions else {**fields, "tool_choice": choice}

    def call_name(self, item: Mapping[str, Any]) -> str:
        """Return the name of the function that an item of input calls."""
        namespace, name = item.get("namespace"), str(item.get("name"))
        return f"{namespace}{_SEPARATOR}{name}" if namespace else name

    def item(self, own: str, call_id: str, name: str, arguments: str, status: str) -> Json:
        """Return the item of a call."""
        tool = self._tools.get(name) or ClientTool("function", name)
        base: Json = {"id": own, "type": "function_call", "call_id": call_id, "status": status}
        if tool.kind == "custom":
            return {**base, "type": "custom_tool_call", "name": tool.name, "input": custom_input(arguments)}
        if tool.kind == LOCAL_SHELL:
            action = {"type": "exec", "env": {}, **_object(arguments)}
            return {**base, "type": "local_shell_call", "action": action}
        namespace = {} if tool.namespace is None else {"namespace": tool.namespace}
        return {**base, "name": tool.name, **namespace, "arguments": arguments}

    def kind(self, name: str) -> str:
        """Return the kind of the tool whose function has *name*."""
        tool = self._tools.get(name)
        return "function" if tool is None or tool.kind == "namespace" else tool.kind

    def _add(self, tool: Json, path: str) -> None:
        kind, name = tool.get("type"), tool.get("name")
        if kind == "function":
            function = {key: content for key, content in tool.items() if key not in _HINTS and content is not None}
            self._put(ClientTool("function", str(name)), str(name), function)
        elif kind == "custom":
            self._put(ClientTool("custom", str(name)), str(name), _custom(tool))
        elif kind == LOCAL_SHELL:
            description = "Runs a command in a shell on the user's machine."
            function = {"name": LOCAL_SHELL, "description": description, "parameters": _SHELL}
            self._put(ClientTool(LOCAL_SHELL, LOCAL_SHELL), LOCAL_SHELL, function)
        elif kind == "namespace":
            for k, inner in enumerate(tool.get("tools") or ()):
                if not isinstance(inner, dict) or inner.get("type") != "function":
                    raise MappingError(f"{path}.tools.{k}.type", "must be function: a namespace is a group of those")
                full = f"{name}{_SEPARATOR}{inner.get('name')}"
                function = {key: content for key, content in inner.items() if key not in _HINTS and content is not None}
                self._put(ClientTool("namespace", str(inner.get("name")), str(name)), full, {**function, "name": full})
        elif self._strict:
            problem = f"{kind!r} is no tool that a client runs: the provider would, and this model server does not"
            raise MappingError(f"{path}.type", problem)

    def _put(self, tool: ClientTool, name: str, function: Json) -> None:
        self._tools[name] = tool
        self.functions.append({"type": "function", "function": function})

    def _function_name(self, choice: Json) -> str:
        return LOCAL_SHELL if choice.get("type") == LOCAL_SHELL else self.call_name(choice)


def custom_input(arguments: str) -> str:
    """Return the bare input of a custom tool's call; what is none of its schema is the input itself."""
    text = _object(arguments).get("input")
    return text if isinstance(text, str) else arguments


def _custom(tool: Json) -> Json:
    """Return the function that stands for a custom tool. A grammar of its input can only be described."""
    grammar = tool.get("format")
    grammar = grammar if isinstance(grammar, dict) else {}
    about = [str(tool["description"])] if tool.get("description") else []
    if grammar.get("definition"):
        about.append(f"The input must match this {grammar.get('syntax') or 'grammar'}:\n{grammar['definition']}")
    parameters = {"type": "object", "properties": {"input": _STRING}, "required": ["input"]}
    return {"name": tool.get("name"), "description": "\n\n".join(about), "parameters": parameters}


def _object(arguments: str) -> Json:
    try:
        content = decode(arguments)
    except msgspec.MsgspecError:
        return {}
    return content if isinstance(content, dict) else {}
