"""Pause of all pods of a proxy: pause, wait until no request is in flight, renew.

A pause expires on each pod, and a new pod has none, so a thread renews it. It is a thread because a trainer that loads
weights may block its event loop.
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
"""TTL of a renewed pause: it outlives the trainer by this long."""
INTERVAL_S = 5.0
_LOOK_S = 0.2
_ASK_S = 20.0
_PARALLEL = 16
_UNAUTHORIZED = 401


@dataclass(frozen=True)
class ControlPorts:
    """Addresses of the control ports and their token."""

    addresses: tuple[str, ...]
    token: str


FindPods = Callable[[], ControlPorts]
"""Returns the current pods; raises ProxyError with what to do."""


@dataclass(frozen=True)
class PauseRequest:
    """Settings of a pause."""

    retry_after_s: float = RETRY_AFTER_S
    ttl_s: float = TTL_S

    def body(self) -> dict[str, float]:
        """Return the body of the request to a pod."""
        return {"retry_after_s": self.retry_after_s, "ttl_s": self.ttl_s}


def pause(name: str, find: FindPods, request: PauseRequest, wait_s: float, cancelled: threading.Event) -> None:
    """Return when every pod is paused and none has a request in flight; else resume them and raise ProxyError."""
    try:
        why = _wait_idle(find, request, wait_s, cancelled)
    except BaseException:
        _resume_after_failure(find)
        raise
    if why:
        _resume_after_failure(find)
        raise ProxyError(f"LLMProxy {name}: not paused: {why}")


def _wait_idle(find: FindPods, request: PauseRequest, wait_s: float, cancelled: threading.Event) -> str:
    """Return the reason of a failure, empty once no request is in flight."""
    deadline_s = time.monotonic() + wait_s
    while True:
        answers = _post_all(find(), "/pause", request.body())
        in_flight = sum(int(status["in_flight"]) for status in answers.values())
        if answers and not in_flight:
            return ""
        if time.monotonic() > deadline_s:
            why = f"{in_flight} requests are still in flight" if answers else "no pod responds on its control port"
            return f"{why} after {wait_s:g} s"
        if cancelled.wait(_LOOK_S):
            return "the wait was cancelled"


def _resume_after_failure(find: FindPods) -> None:
    with contextlib.suppress(ProxyError):
        _post_all(find(), "/resume", None)


def resume(find: FindPods) -> None:
    """Resume every pod; the pause of one that is not reached expires."""
    _post_all(find(), "/resume", None)


class PauseRenewer:
    """Renews a pause in a thread."""

    def __init__(self, name: str, find: FindPods, request: PauseRequest) -> None:
        self._name = name
        self._find = find
        self._request = request
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pause of {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            try:
                _post_all(self._find(), "/pause", self._request.body())
            except ProxyError as exc:
                log.warning("LLMProxy %s: the pause may end in %g s: %s", self._name, self._request.ttl_s, exc)


def _post_all(pods: ControlPorts, path: str, body: dict[str, float] | None) -> dict[str, dict[str, Any]]:
    """Return the responses by address; a pod that refuses the connection does not serve yet or any more."""
    if not pods.addresses:
        return {}
    with ThreadPoolExecutor(min(_PARALLEL, len(pods.addresses))) as pool:
        answers = pool.map(lambda address: _post(address, path, pods.token, body), pods.addresses)
        return {address: status for address, status in zip(pods.addresses, answers, strict=True) if status is not None}


def _post(address: str, path: str, token: str, body: dict[str, float] | None) -> dict[str, Any] | None:
    place = urlsplit(address)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_ASK_S)
    with contextlib.closing(connection):
        try:
            connection.connect()
        except ConnectionRefusedError:
            return None
        except OSError as exc:
            raise ProxyError(f"{address}: cannot be reached: {exc}: check NetworkPolicies for port 9091") from exc
        try:
            connection.request("POST", path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        except ConnectionError:
            return None
        except (OSError, http.client.HTTPException) as exc:
            raise ProxyError(f"{address}: does not respond: {exc}") from exc
    if answer.status == _UNAUTHORIZED:
        raise ProxyError(f"{address}: refuses the token of its Secret: a new token takes effect within two minutes")
    if answer.status != http.HTTPStatus.OK:
        raise ProxyError(f"{address}: {answer.status}: {text[:200].decode(errors='replace')}")
    result: dict[str, Any] = json.loads(text)
    return result
