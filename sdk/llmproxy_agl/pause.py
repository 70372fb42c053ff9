"""Pauses every pod of a proxy, waits until no call is in flight on any, and says so again while the pause is to hold.

A pause ends by itself on each pod and a new pod knows of none, so a thread repeats it: not a task, for what a trainer
does meanwhile, loading weights, may hold its event loop up.
"""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmproxy_agl.errors import ProxyError
from llmproxy_agl.notices import log

RETRY_AFTER_S = 5.0
TTL_S = 600.0
WAIT_S = 300.0
HELD_TTL_S = 60.0
"""Of a pause that is repeated: so long it outlives the trainer."""
INTERVAL_S = 5.0
_LOOK_S = 0.2
_ASK_S = 20.0
_PARALLEL = 16
_UNAUTHORIZED = 401


@dataclass(frozen=True)
class Pods:
    """Where the control ports are, and what opens them."""

    addresses: tuple[str, ...]
    token: str


Find = Callable[[], Pods]
"""Looks for the pods as they are now; raises ProxyError with the way out."""


@dataclass(frozen=True)
class Wanted:
    """What the pause is to be like."""

    retry_after_s: float = RETRY_AFTER_S
    ttl_s: float = TTL_S

    def body(self) -> dict[str, float]:
        """Return what a pod is sent."""
        return {"retry_after_s": self.retry_after_s, "ttl_s": self.ttl_s}


def pause(name: str, find: Find, wanted: Wanted, wait_s: float, cancelled: threading.Event) -> None:
    """Return when every pod is paused and none has a call in flight; else resume them and raise ProxyError."""
    try:
        why = _until_quiet(find, wanted, wait_s, cancelled)
    except BaseException:
        _resume_after_failure(find)
        raise
    if why:
        _resume_after_failure(find)
        raise ProxyError(f"LLMProxy {name}: not paused: {why}")


def _until_quiet(find: Find, wanted: Wanted, wait_s: float, cancelled: threading.Event) -> str:
    """Return why it is not, nothing if no call is in flight."""
    deadline_s = time.monotonic() + wait_s
    while True:
        answers = _tell_all(find(), "/pause", wanted.body())
        in_flight = sum(int(told["in_flight"]) for told in answers.values())
        if answers and not in_flight:
            return ""
        if time.monotonic() > deadline_s:
            why = f"{in_flight} calls are still in flight" if answers else "no pod answers at its control port"
            return f"{why} after {wait_s:g} s"
        if cancelled.wait(_LOOK_S):
            return "nobody waits for it any more"


def _resume_after_failure(find: Find) -> None:
    with contextlib.suppress(ProxyError):
        _tell_all(find(), "/resume", None)


def resume(find: Find) -> None:
    """Have every pod take calls again; one that is not reached does so by itself."""
    _tell_all(find(), "/resume", None)


class Holder:
    """Repeats a pause until it is told to stop."""

    def __init__(self, name: str, find: Find, wanted: Wanted) -> None:
        self._name = name
        self._find = find
        self._wanted = wanted
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pause of {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when it says nothing any more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            try:
                _tell_all(self._find(), "/pause", self._wanted.body())
            except ProxyError as exc:
                log.warning("LLMProxy %s: the pause may end in %g s: %s", self._name, self._wanted.ttl_s, exc)


def _tell_all(pods: Pods, path: str, body: dict[str, float] | None) -> dict[str, dict[str, Any]]:
    """Return what each pod answers; one that takes no connection has not begun to serve, or has ended."""
    if not pods.addresses:
        return {}
    with ThreadPoolExecutor(min(_PARALLEL, len(pods.addresses))) as pool:
        answers = pool.map(lambda address: _tell(address, path, pods.token, body), pods.addresses)
        return {address: told for address, told in zip(pods.addresses, answers, strict=True) if told is not None}


def _tell(address: str, path: str, token: str, body: dict[str, float] | None) -> dict[str, Any] | None:
    place = urlsplit(address)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_ASK_S)
    with contextlib.closing(connection):
        try:
            connection.connect()
        except ConnectionRefusedError:
            return None
        except OSError as exc:
            raise ProxyError(f"{address}: cannot be reached: {exc}: look at NetworkPolicies for port 9091") from exc
        try:
            connection.request("POST", path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        except ConnectionError:
            return None
        except (OSError, http.client.HTTPException) as exc:
            raise ProxyError(f"{address}: does not answer: {exc}") from exc
    if answer.status == _UNAUTHORIZED:
        raise ProxyError(f"{address}: refuses the token of its Secret: one that was just replaced takes two minutes")
    if answer.status != http.HTTPStatus.OK:
        raise ProxyError(f"{address}: {answer.status}: {text[:200].decode(errors='replace')}")
    found: dict[str, Any] = json.loads(text)
    return found
