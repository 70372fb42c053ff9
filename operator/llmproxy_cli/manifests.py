"""Reader of manifests: one LLMProxy and its Secrets. Pure but for reading the file.

Objects of other kinds are ignored.
"""

import base64
import binascii
import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from llmproxy_api import KIND, LLMProxy, SpecError, parse

MAX_FILE_BYTES = 4 << 20
STDIN = Path("-")

SecretRef = tuple[str, str]
"""Name of a Secret and key in it."""


class FileError(Exception):
    """The file is invalid; the message has one line for each problem, with its place and what to do."""


@dataclass(frozen=True, slots=True)
class ManifestBundle:
    """LLMProxy and Secrets of a file."""

    proxy: LLMProxy
    secrets: Mapping[SecretRef, str]


def load(path: Path, *, name: str | None = None, connect_to: Mapping[str, str] | None = None) -> ManifestBundle:
    """Return the LLMProxy *name* (or the only one) of the file *path*; raise FileError. `-` is standard input."""
    text, source = read_text(path)
    return read(text, source, name=name, connect_to=connect_to or {})


def load_all(paths: Sequence[Path], *, name: str | None = None) -> Iterator[tuple[str, ManifestBundle | FileError]]:
    """Yield every LLMProxy of *paths* (files, folders, `-`) with its source, or the error; there may be none.

    Of a folder only files that mention an LLMProxy are read: the rest may be templates or of another tool.
    """
    for path in paths:
        for file in _files(path):
            try:
                text, source = read_text(file)
                if file != path and KIND not in text:
                    continue
                objects = list(_objects(text, source))
            except FileError as exc:
                yield str(file), exc
                continue
            for raw in objects:
                if raw.get("kind") == KIND and name in {None, _metadata(raw).get("name")}:
                    try:
                        yield source, _bundle(raw, objects, source, {})
                    except FileError as exc:
                        yield source, exc


def _files(path: Path) -> list[Path]:
    if path == STDIN or not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in {".yaml", ".yml", ".json"} and file.is_file())


def read_text(path: Path) -> tuple[str, str]:
    """Return the text of the file *path*, and its name for messages; raise FileError. `-` is standard input."""
    try:
        if path == STDIN:
            text = sys.stdin.read(MAX_FILE_BYTES + 1)
            if len(text) > MAX_FILE_BYTES:
                raise FileError(f"standard input: has more than {MAX_FILE_BYTES} characters")
            return text, "standard input"
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(f"{path}: has more than {MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8"), str(path)
    except OSError as exc:
        raise FileError(f"{path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise FileError(f"{path}: not UTF-8 text") from exc


def read(text: str, source: str, *, name: str | None, connect_to: Mapping[str, str]) -> ManifestBundle:
    """Return the LLMProxy and Secrets of *text*; raise FileError whose lines begin with *source*."""
    objects = list(_objects(text, source))
    raw = _select([o for o in objects if o.get("kind") == KIND], name, source)
    return _bundle(raw, objects, source, connect_to)


def _bundle(
    raw: dict[str, Any], objects: Sequence[dict[str, Any]], source: str, connect_to: Mapping[str, str]
) -> ManifestBundle:
    secrets: dict[SecretRef, str] = {}
    for secret in objects:
        if secret.get("kind") == "Secret" and _same_namespace(secret, raw):
            secrets.update(_contents(secret, source))
    try:
        proxy = parse(_with_addresses(raw, connect_to, source))
    except SpecError as exc:
        raise FileError("\n".join(f"{source}: {problem}" for problem in exc.problems)) from exc
    return ManifestBundle(proxy, secrets)


def _objects(text: str, source: str) -> Iterator[dict[str, Any]]:
    try:
        for item in yaml.safe_load_all(text):
            items = item.get("items") if isinstance(item, dict) and str(item.get("kind")).endswith("List") else [item]
            for manifest in items if isinstance(items, list) else ():
                if isinstance(manifest, dict):
                    yield manifest
                elif manifest is not None:
                    raise FileError(f"{source}: a manifest must be a mapping, got {type(manifest).__name__}")
    except yaml.MarkedYAMLError as exc:
        where = f":{exc.problem_mark.line + 1}" if exc.problem_mark is not None else ""
        raise FileError(f"{source}{where}: not YAML: {exc.problem}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise FileError(f"{source}: not YAML: {exc}") from exc


def _select(proxies: list[dict[str, Any]], name: str | None, source: str) -> dict[str, Any]:
    names = [str(_metadata(p).get("name")) for p in proxies]
    if not proxies:
        raise FileError(f"{source}: there is no object of kind {KIND}")
    if name is None and len(proxies) > 1:
        raise FileError(f"{source}: there are {len(proxies)} of kind {KIND}: choose one by --name {'|'.join(names)}")
    for proxy, its_name in zip(proxies, names, strict=True):
        if name in {None, its_name}:
            return proxy
    raise FileError(f"{source}: no {KIND} is called {name!r}; there is {', '.join(names)}")


def _metadata(item: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = item.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _same_namespace(secret: Mapping[str, Any], proxy: Mapping[str, Any]) -> bool:
    places = [_metadata(item).get("namespace", "default") for item in (secret, proxy)]
    return bool(places[0] == places[1])


def _contents(secret: Mapping[str, Any], source: str) -> Iterator[tuple[SecretRef, str]]:
    """Yield the values of a Secret; `stringData` wins over `data`, as in the API server."""
    name = str(_metadata(secret).get("name"))
    for field in ("data", "stringData"):
        values = secret.get(field) or {}
        if not isinstance(values, dict):
            raise FileError(f"{source}: Secret {name!r}: {field} must be a mapping")
        for key, value in values.items():
            if not isinstance(value, str):
                raise FileError(f"{source}: Secret {name!r}: {field}.{key} must be a string: quote it")
            yield (name, str(key)), value if field == "stringData" else _decoded(value, f"{name!r}: data.{key}", source)


def _decoded(value: str, where: str, source: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise FileError(f"{source}: Secret {where} is not text in base64: write plain text into stringData") from exc


def _with_addresses(raw: dict[str, Any], connect_to: Mapping[str, str], source: str) -> dict[str, Any]:
    """Return *raw* with hosts of the cluster, such as `echo:8000`, replaced by those of *connect_to*."""
    if not connect_to:
        return raw
    manifest = copy.deepcopy(raw)
    hosts: set[str] = set()
    for place, key in _addresses(manifest):
        address = place.get(key)
        host = urlsplit(address).netloc if isinstance(address, str) else ""
        hosts.add(host)
        if isinstance(address, str) and host in connect_to:
            place[key] = address.replace(f"//{host}", f"//{connect_to[host]}", 1)
    for host in connect_to:
        if host not in hosts:
            names = ", ".join(sorted(hosts - {""})) or "none"
            raise FileError(f"{source}: --connect-to {host}=...: no apiBase or store is there; there is {names}")
    return manifest


def _addresses(raw: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each field that may hold an address; other shapes are left to the validation."""
    spec = raw.get("spec")
    if not isinstance(spec, dict):
        return
    if isinstance(spec.get("spans"), dict):
        yield spec["spans"], "store"
        if isinstance(spec["spans"].get("otlp"), dict):
            yield spec["spans"]["otlp"], "endpoint"
    models = spec.get("models")
    for model in models if isinstance(models, list) else ():
        deployments = model.get("deployments") if isinstance(model, dict) else None
        for deployment in deployments if isinstance(deployments, list) else ():
            if isinstance(deployment, dict):
                yield deployment, "apiBase"
