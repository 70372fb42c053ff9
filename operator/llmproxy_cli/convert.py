"""`llmproxy convert`: manifests from a file of LiteLLM or Agent-Lightning, warnings with the line of the file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmproxy_api import Problem, SpecError
from llmproxy_api.litellm.convert import convert
from llmproxy_cli.manifests import FileError, read_text

AGENT_LIGHTNING = "litellm_config"
"""The argument of Agent-Lightning's LLMProxy, as a key of a file: its settings stand beside `model_list`."""

CHART = "proxy_config"
CHART_KEY = "os.environ/PROXY_MASTER_KEY"
"""Key of LiteLLM's configuration in the values of its Helm chart, and the chart's default of its master_key."""

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """Flags of the command."""

    file: Path
    name: str
    namespace: str | None
    store: str | None
    in_cluster: bool


@dataclass(frozen=True, slots=True)
class ConvertedText:
    """Manifests and warnings of a file."""

    manifests: str
    warnings: tuple[str, ...]
    """One line each, with the place in the file."""


def convert_file(options: ConvertOptions, environment: Mapping[str, str]) -> ConvertedText:
    """Return the manifests of a file; raise FileError with one line for each error."""
    text, config, source = _read(options.file)
    try:
        conversion = convert(
            config,
            name=options.name,
            namespace=options.namespace,
            store=options.store,
            in_cluster=options.in_cluster,
            environment=environment,
        )
    except SpecError as exc:
        raise FileError("\n".join(_with_location(problem, text, source) for problem in exc.problems)) from None
    objects = [conversion.proxy, *conversion.secrets(placeholders=True)]
    written = yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True, explicit_start=True)
    return ConvertedText(written, tuple(_with_location(remark, text, source) for remark in conversion.warnings))


def _read(path: Path) -> tuple[str, dict[str, Any], str]:
    """Return the text of the configuration, the configuration, and the file's name for messages."""
    text, source = read_text(path)
    try:
        text = _of_configmap(text) or text
        config = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        raise FileError(f"{source}{f':{mark.line + 1}' if mark else ''}: not YAML, or several documents") from exc
    config = _of_chart(config)
    if not isinstance(config, dict):
        raise FileError(f"{source}: must be a mapping with model_list")
    inner = config.pop(AGENT_LIGHTNING, None)
    if inner is not None and not isinstance(inner, dict):
        raise FileError(f"{source}: {AGENT_LIGHTNING} must be a mapping")
    if twice := sorted(set(inner or ()) & set(config)):
        raise FileError(f"{source}: {twice[0]} is both at the top and in {AGENT_LIGHTNING}: keep one")
    return text, {**config, **(inner or {})}, source


def _of_configmap(text: str) -> str | None:
    """Return the configuration in a ConfigMap of *text*, at the same lines; None if there is none."""
    for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
        kind, data = _key(node, "kind"), _key(node, "data")
        if kind is None or data is None or kind[1].value != "ConfigMap":
            continue
        for _, value in data[1].value if isinstance(data[1], yaml.MappingNode) else ():
            if "model_list" in value.value:
                blank_lines: int = value.start_mark.line + (value.style in {"|", ">"})
                return "\n" * blank_lines + str(value.value)
    return None


def _of_chart(config: object) -> object:
    """Return the configuration in values of LiteLLM's chart, perhaps as a dependency; else *config* itself.

    The chart sets a master key unless the values remove it: without one the proxy would be open.
    """
    if not isinstance(config, dict) or "model_list" in config:
        return config
    for values in (config, *config.values()):
        inner = values.get(CHART) if isinstance(values, dict) else None
        if isinstance(inner, dict):
            general = inner.get("general_settings") or {}
            return {**inner, "general_settings": {"master_key": CHART_KEY, **general}}
    return config


def _with_location(problem: Problem, text: str, source: str) -> str:
    line = line_of(problem.path, text)
    return f"{source}{f':{line}' if line else ''}: {problem}"


def line_of(path: str, text: str) -> int | None:
    """Return the line of *path* in *text* (YAML), or of the last of its steps that exists."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = [root, *(value for _, value in root.value)] if isinstance(root, yaml.MappingNode) else [root]
    inner = [item[1] for node in nodes for name in (AGENT_LIGHTNING, CHART) if (item := _key(node, name)) is not None]
    places = [_walk(start, path) for start in (root, *inner)]
    return max((line for line in places if line is not None), default=None)


def _walk(node: yaml.Node | None, path: str) -> int | None:
    line = None
    for name, index in _STEP.findall(path):
        if index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
            node = node.value[int(index)]
            line = node.start_mark.line + 1
        elif not index and (location := _key(node, name)) is not None:
            line, node = location
        else:
            break
    return line


def _key(node: yaml.Node | None, name: str) -> tuple[int, yaml.Node] | None:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == name:
            return key.start_mark.line + 1, value
    return None
