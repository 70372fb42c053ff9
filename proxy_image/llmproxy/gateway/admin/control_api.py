"""The control port: pause, resume, and the calls in flight. Every request needs the token.

The token is in a file that is read for each request: a new one needs no restart. The holder can keep a pod from taking
calls and no more: no prompt, key or setting is read or changed here.
"""

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field

from llmproxy.gateway.errors import MAX_RETRY_AFTER_S, Header, UnauthorizedError
from llmproxy.gateway.requests.pause import MAX_TTL_S, RETRY_AFTER_S, TTL_S, Pause, until_quiet

MAX_WAIT_S = 600.0
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]
MAX_TOKEN = 4096
"""Bytes of the file."""


class PauseOptions(BaseModel):
    """Body of POST /pause."""

    model_config = ConfigDict(extra="forbid")

    retry_after_s: Annotated[float, Field(gt=0, le=MAX_RETRY_AFTER_S, allow_inf_nan=False)] = RETRY_AFTER_S
    """Retry-After of paused calls."""
    ttl_s: Annotated[float, Field(gt=0, le=MAX_TTL_S, allow_inf_nan=False)] = TTL_S
    """Time to live of the pause."""


def control_app(pause: Pause, in_flight: Callable[[], int]) -> FastAPI:
    """Return the app."""
    app = FastAPI(title="llmproxy control", openapi_url=None)

    async def state(wait_s: float) -> dict[str, object]:
        count = await until_quiet(in_flight, wait_s)
        body: dict[str, object] = {"paused": pause.active, "in_flight": count}
        if pause.active:
            body |= {"ends_in_s": round(pause.ends_in_s, 3), "retry_after_s": pause.retry_after_s}
        return body

    @app.post("/pause")
    async def begin(options: PauseOptions | None = None, wait_s: Wait = 0.0) -> dict[str, object]:
        """Start no more calls; respond when none is in flight, after *wait_s* at the latest."""
        options = options or PauseOptions()
        pause.begin(retry_after_s=options.retry_after_s, ttl_s=options.ttl_s)
        return await state(wait_s)

    @app.post("/resume")
    async def resume() -> dict[str, object]:
        """Start calls again."""
        pause.end()
        return await state(0.0)

    @app.get("/inflight")
    async def inflight(wait_s: Wait = 0.0) -> dict[str, object]:
        """Return the number of calls in flight; respond when it is 0, after *wait_s* at the latest."""
        return await state(wait_s)

    return app


class TokenAuth:
    """The token of the control port, read from its file for each request."""

    def __init__(self, token_file: Path) -> None:
        self._token_file = token_file

    def check(self, method: str, path: str, headers: list[Header]) -> None:  # noqa: ARG002 - every request needs it
        """Raise UnauthorizedError unless *headers* have the token."""
        credentials = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, token = credentials.partition(b" ")
        try:
            with self._token_file.open("rb") as file:
                secret = file.read(MAX_TOKEN).strip()
        except OSError:
            secret = b""
        if not secret or scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), secret):
            raise UnauthorizedError(
                "this port needs its token: send it as `Authorization: Bearer TOKEN`",
                headers=((b"www-authenticate", b"Bearer"),),
            )
