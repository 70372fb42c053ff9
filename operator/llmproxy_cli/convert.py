"""From a file of LiteLLM or Agent-Lightning to manifests as text, with the line of what that is not carried over."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmproxy_api import Problem, SpecError
from llmproxy_api.litellm.convert import convert
from llmproxy_cli.manifests import FileError

AGENT_LIGHTNING = "litellm_config"
"""The argument of Agent-Lightning's LLMProxy, as a key of a file: its settings stand beside `model_list`."""

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    file: Path
    name: str
    namespace: str | None
    store: str | None
    in_cluster: bool


@dataclass(frozen=True, slots=True)
class Text:
    """What came of a file."""

    manifests: str
    warnings: tuple[str, ...]
    """A line each: where it stands in the file, and what becomes of it."""


def convert_file(options: Options, environment: Mapping[str, str]) -> Text:
    """Return the manifests that do what the file says; raise FileError with every line that stands against it."""
    source = str(options.file)
    text, config = _read(options.file)
    try:
        made = convert(
            config,
            name=options.name,
            namespace=options.namespace,
            store=options.store,
            in_cluster=options.in_cluster,
            environment=environment,
        )
    except SpecError as exc:
        raise FileError("\n".join(_placed(problem, text, source) for problem in exc.problems)) from None
    secret = made.secret(placeholders=True)
    objects = [made.proxy] if secret is None else [made.proxy, secret]
    written = yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True, explicit_start=True)
    return Text(written, tuple(_placed(remark, text, source) for remark in made.warnings))


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as exc:
        raise FileError(f"{path}: {getattr(exc, 'strerror', None) or 'not UTF-8 text'}") from exc
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        raise FileError(f"{path}{f':{mark.line + 1}' if mark else ''}: not YAML") from exc
    if not isinstance(config, dict):
        raise FileError(f"{path}: must be a mapping with model_list")
    inner = config.pop(AGENT_LIGHTNING, None)
    if inner is not None and not isinstance(inner, dict):
        raise FileError(f"{path}: {AGENT_LIGHTNING} must be a mapping")
    if twice := sorted(set(inner or ()) & set(config)):
        raise FileError(f"{path}: {twice[0]} stands both at the top and in {AGENT_LIGHTNING}: keep one")
    return text, {**config, **(inner or {})}


def _placed(problem: Problem, text: str, source: str) -> str:
    line = line_of(problem.path, text)
    return f"{source}{f':{line}' if line else ''}: {problem}"


def line_of(path: str, text: str) -> int | None:
    """Return the line of *text* (YAML) where *path* stands, or the last of its steps that is there."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    outer = _key(root, AGENT_LIGHTNING)
    places = [_walk(start, path) for start in (root, None if outer is None else outer[1])]
    return max((line for line in places if line is not None), default=None)


def _walk(node: yaml.Node | None, path: str) -> int | None:
    line = None
    for name, index in _STEP.findall(path):
        if index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
            node = node.value[int(index)]
            line = node.start_mark.line + 1
        elif not index and (found := _key(node, name)) is not None:
            line, node = found
        else:
            break
    return line


def _key(node: yaml.Node | None, name: str) -> tuple[int, yaml.Node] | None:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == name:
            return key.start_mark.line + 1, value
    return None
