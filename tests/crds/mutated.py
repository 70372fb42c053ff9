"""Objects made wrong at random, and sometimes only other: each by one to three changes of a valid one.

A change takes away, adds, doubles, retypes or moves to its bounds, or puts in what the same field holds elsewhere in
the cases, which is how fields come together that limit each other. One seed makes the same objects for ever.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from crds.cases import cases
from crds.every_field import AUTOSCALED, BASE, Object
from llmproxy_api.models import API_VERSION, KIND

Place = tuple[Any, Any]
"""What holds a value, and its key or index in it."""

_OTHER_TYPES: tuple[Any, ...] = ("text", "", 7, 1.5, True, [], {}, ["a"], {"a": "b"}, [{}], None)
_NUMBERS = (-1, 0, 1, 2, 10, 11, 64, 65, 100, 101, 1_000_000, 1_000_001, 1_000_000_000, 1_000_000_001, 3.0, 3.5)
_TEXTS = (
    *("a/b", "openai/x", "vllm/x", "gemini/x", "anthropic/x", "nobody/x", "openai/", "*", "Redis", "Queue", "Full"),
    *("0s", "5ms", "1.5s", "1h30m", "168h", "169h", "1d", "-1s", "1.1234s", "11m", ".5s"),
    *("100m", "1Gi", "1.5Gi", "0", "1e3", "-1", "1K", "640Mi", "999Ti"),
    *("http://h", "https://h:65535/v1", "http://h:65536", "http://u:p@h", "http://h?q=1", "ftp://h", "http://[::1]:1/"),
    *("x" * 40, "x" * 41, "x" * 63, "x" * 64, "x" * 65, "x" * 129, "x" * 257, "x" * 600, "é" * 64, "😀" * 33),
    *("lower", "UPPER", "with space", "under_score", "-dash", "dash-", "dot.", "a.b", "echo\n", "kubernetes.io/a"),
)
_KEYS = ("new", "name", "api_key", "timeout", "replicas", "kubernetes.io/a", "llmproxy.dev/a", "a/b/c", "X-a", "é", "")


def originals() -> list[Object]:
    """Return the valid objects, with those that have every field."""
    whole = [
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "p"}, "spec": s} for s in (BASE, AUTOSCALED)
    ]
    # Three of four changes of a list of 64 models would be the same one.
    return [case.manifest for case in cases("valid") if "sixty" not in case.path.name] + whole * 3


def mutated(seed: int, count: int) -> Iterator[Object]:
    """Yield *count* objects."""
    chance = random.Random(seed)
    taken = originals()
    pool = _pool([*taken, *(case.manifest for case in cases("invalid"))])
    for _ in range(count):
        made = json.loads(json.dumps(chance.choice(taken)))  # no part of it in two places
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            _change(chance, made, pool)
        yield made


def _change(chance: random.Random, made: Object, pool: dict[str, list[Any]]) -> None:
    places = [place for top in ("metadata", "spec") if top in made for place in _places(made, top)]
    if not places:
        return
    holder, key = chance.choice(places)
    chance.choice(_CHANGES)(chance, holder, key, pool)


def _places(holder: Any, key: Any) -> Iterator[Place]:
    yield holder, key
    value = holder[key]
    for below in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value, below)


def _pool(objects: list[Object]) -> dict[str, list[Any]]:
    """Return what stands below each name anywhere."""
    found: dict[str, list[Any]] = {}
    for made in objects:
        for top in ("metadata", "spec"):
            for holder, key in _places(made, top) if isinstance(made.get(top), dict) else ():
                if isinstance(key, str) and holder[key] not in found.setdefault(key, []):
                    found[key].append(holder[key])
    return found


def _take_away(_: random.Random, holder: Any, key: Any, __: dict[str, list[Any]]) -> None:
    del holder[key]


def _retype(chance: random.Random, holder: Any, key: Any, _: dict[str, list[Any]]) -> None:
    holder[key] = copy.deepcopy(chance.choice(_OTHER_TYPES))


def _to_the_bounds(chance: random.Random, holder: Any, key: Any, _: dict[str, list[Any]]) -> None:
    old = holder[key]
    if isinstance(old, str):
        near = (old.upper(), f"{old} ", f"{old}\n", old[:-1], old * 9, f"-{old}", f"{old}.", f"{old}/")
        holder[key] = chance.choice((*_TEXTS, *near))
    elif isinstance(old, bool):
        holder[key] = not old
    elif isinstance(old, int | float):
        holder[key] = chance.choice((*_NUMBERS, old + 1, -old, float(old)))
    elif isinstance(old, list):
        holder[key] = chance.choice(([], old[:1], old * 2, old[:1] * 17, old[::-1]))
    elif isinstance(old, dict):
        old[chance.choice(_KEYS)] = copy.deepcopy(chance.choice(_OTHER_TYPES))


def _put_in(chance: random.Random, holder: Any, key: Any, pool: dict[str, list[Any]]) -> None:
    """Put in what the same name holds elsewhere, or beside it what is held under another name of the pool."""
    if isinstance(holder[key], dict):
        name = chance.choice([*holder[key], chance.choice(list(pool))])
        holder[key][name] = copy.deepcopy(chance.choice(pool.get(name, list(_OTHER_TYPES))))
    elif isinstance(key, str):
        holder[key] = copy.deepcopy(chance.choice(pool.get(key, list(_TEXTS))))
    else:
        holder.insert(chance.randrange(len(holder) + 1), copy.deepcopy(holder[key]))


def _misspell(chance: random.Random, holder: Any, key: Any, _: dict[str, list[Any]]) -> None:
    if isinstance(key, str):
        at = chance.randrange(len(key) + 1)
        holder[f"{key[:at]}{chance.choice('xX_')}{key[at:]}"] = holder.pop(key)


_CHANGES: tuple[Callable[[random.Random, Any, Any, dict[str, list[Any]]], None], ...] = (
    *(_take_away, _retype, _to_the_bounds, _to_the_bounds, _put_in, _put_in, _put_in, _misspell),
)
