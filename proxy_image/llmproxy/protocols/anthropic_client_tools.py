"""Anthropic's tools that run at the client, as functions by their published schemas. Pure.

Sources: docs.anthropic.com, "Bash tool", "Text editor tool", "Memory tool". Each is named by a type with a date; the
schema is in Anthropic's models and not in the request.
"""

from llmproxy.protocols.json_fields import Json

_STRING: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_RANGE: Json = {"type": "array", "items": _NUMBER, "description": "First and last line; -1 is the end."}


def _schema(required: tuple[str, ...], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _commands(*names: str) -> Json:
    return {"type": "string", "enum": list(names)}


_EDIT = {"path": _STRING, "old_str": _STRING, "new_str": _STRING, "insert_line": _NUMBER, "view_range": _RANGE}
_TOOLS: dict[str, tuple[str, Json]] = {
    "bash": (
        "Runs a command in a bash session that stays open; restart begins a new one.",
        _schema((), command=_STRING, restart={"type": "boolean"}),
    ),
    "text_editor": (
        "Views, creates and edits text files.",
        _schema(
            ("command", "path"),
            command=_commands("view", "create", "str_replace", "insert", "undo_edit"),
            file_text=_STRING,
            insert_text=_STRING,
            **_EDIT,
        ),
    ),
    "memory": (
        "Keeps notes between conversations in files below /memories.",
        _schema(
            ("command",),
            command=_commands("view", "create", "str_replace", "insert", "delete", "rename"),
            file_text=_STRING,
            insert_text=_STRING,
            old_path=_STRING,
            new_path=_STRING,
            **_EDIT,
        ),
    ),
}


def client_tool(tool: Json) -> Json | None:
    """Return the function for a tool of Anthropic's that runs at the client, None for any other."""
    kind, _, version = str(tool.get("type")).rpartition("_")
    if kind not in _TOOLS or not version.isdecimal() or not isinstance(tool.get("name"), str):
        return None
    description, schema = _TOOLS[kind]
    return {"name": tool["name"], "description": description, "parameters": schema}
