"""The control port: pause, resume, and what there is to wait for. Whoever shows the token may; nobody else.

The token is in a file that is read for each request: a new one needs no new process. Whoever has it can keep a pod from
taking calls, and can do no more: no prompt, key or setting is seen or changed here.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from llmproxy.gateway.requests.pause import MAX_RETRY_AFTER_S, MAX_TTL_S, RETRY_AFTER_S, TTL_S, Pause, until_quiet

MAX_WAIT_S = 600.0
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Wanted(BaseModel):
    """What a pause is to be like."""

    model_config = ConfigDict(extra="forbid")

    retry_after_s: Annotated[float, Field(gt=0, le=MAX_RETRY_AFTER_S, allow_inf_nan=False)] = RETRY_AFTER_S
    """What callers are told to wait before they ask again."""
    ttl_s: Annotated[float, Field(gt=0, le=MAX_TTL_S, allow_inf_nan=False)] = TTL_S
    """After that it ends by itself."""


def make_control(pause: Pause, in_flight: Callable[[], int], token_file: Path) -> "Guard":
    """Return the app."""
    app = FastAPI(title="llmproxy control", openapi_url=None)

    async def state(wait_s: float) -> dict[str, object]:
        count = await until_quiet(in_flight, wait_s)
        told: dict[str, object] = {"paused": pause.holds, "in_flight": count}
        if pause.holds:
            told |= {"ends_in_s": round(pause.ends_in_s, 3), "retry_after_s": pause.retry_after_s}
        return told

    @app.post("/pause")
    async def begin(wanted: Wanted | None = None, wait_s: Wait = 0.0) -> dict[str, object]:
        """Begin no more calls; answer when none is in flight, after *wait_s* at the latest."""
        asked = wanted or Wanted()
        pause.begin(retry_after_s=asked.retry_after_s, ttl_s=asked.ttl_s)
        return await state(wait_s)

    @app.post("/resume")
    async def resume() -> dict[str, object]:
        """Take calls again."""
        pause.end()
        return await state(0.0)

    @app.get("/inflight")
    async def inflight(wait_s: Wait = 0.0) -> dict[str, object]:
        """Say how many calls are in flight; answer when it is none, after *wait_s* at the latest."""
        return await state(wait_s)

    return Guard(app, token_file)


class Guard:
    """Lets nothing through to *app* that does not show the token, and reads nothing of it."""

    def __init__(self, app: FastAPI, token_file: Path) -> None:
        self._app = app
        self._token_file = token_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not self._may(scope["headers"]):
            told = {"detail": "this port needs its token: send it as `Authorization: Bearer TOKEN`"}
            await JSONResponse(told, 401, {"www-authenticate": "Bearer"})(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may(self, headers: list[tuple[bytes, bytes]]) -> bool:
        try:
            token = self._token_file.read_bytes().strip()
        except OSError:
            return False
        shown = next((value for name, value in headers if name == b"authorization"), b"")
        return bool(token) and hmac.compare_digest(shown, b"Bearer " + token)
