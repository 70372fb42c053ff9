"""`python -m llmproxy.echo`: reads the flags and serves until it is told to end."""

import argparse
import signal
import socket
import sys
from typing import Any

import uvicorn

from llmproxy.echo.app import Echo
from llmproxy.echo.behaviour import DirectiveError, read

DRAIN_S = 2
"""At its end, calls in flight are cut after that: no one trains on an echo."""

_EPILOG = """\
For one request, the same by headers (x-echo-status, x-echo-delay-ms, x-echo-chunk-ms, x-echo-chunks, x-echo-say,
x-echo-think, x-echo-retry-after, x-echo-die-after-chunks) or by a user message that is nothing but a directive:
  {"echo": {"status": 503, "retry_after": "2"}}      {"echo": {"chunks": 20, "chunk_ms": 500}}
With tools in the request, lines `call NAME {"some": "arguments"}` are answered by calls of them.
GET /stats says what was seen (calls, statuses, last headers and body), POST /stats/reset sets it to zero.
"""


def main(argv: list[str] | None = None) -> int:
    """Serve; return the exit code."""
    parser = _parser()
    flags = parser.parse_args(argv)
    defaults: dict[str, Any] = {
        name: value
        for name in ("status", "delay_ms", "chunk_ms", "chunks", "retry_after", "die_after_chunks")
        if (value := getattr(flags, name)) is not None
    }
    try:
        read(defaults, (), "")
    except DirectiveError as exc:
        parser.error(str(exc))
    try:
        listener = _listen(flags.host, flags.port)
    except OSError as exc:
        print(f"echo: cannot listen on {flags.host}:{flags.port}: {exc.strerror or exc}", file=sys.stderr)  # noqa: T201
        return 1
    app = Echo(models=tuple(flags.model), defaults=defaults, fail_rate=flags.fail_rate)
    config = uvicorn.Config(
        app, log_level="critical", lifespan="off", access_log=False, timeout_graceful_shutdown=DRAIN_S
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what ended it once more: an end, no failure
        signal.signal(number, lambda *_: None)
    host = f"[{flags.host}]" if ":" in flags.host else flags.host
    _EchoServer(config, f"http://{host}:{listener.getsockname()[1]}").run(sockets=[listener])
    return 0


class _EchoServer(uvicorn.Server):
    """Prints a line when it is ready."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"echo model server ready on {self._address}", flush=True)  # noqa: T201 - what it is started for


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    listener.set_inheritable(True)
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmproxy.echo",
        description="A small OpenAI- and vLLM-compatible model server for demos and tests: it repeats what it is told.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one and says which")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="serve only these; default: any")
    parser.add_argument("--status", type=int, help="answer everything with this status")
    parser.add_argument("--retry-after", help="value of a header Retry-After on every answer")
    parser.add_argument("--fail-rate", type=float, default=0.0, metavar="0..1", help="share answered with 503")
    parser.add_argument("--delay-ms", type=float, help="wait before the first byte")
    parser.add_argument("--chunk-ms", type=float, help="wait before each piece")
    parser.add_argument("--chunks", type=int, help="answer in so many pieces")
    parser.add_argument("--die-after-chunks", type=int, help="close the connection after so many pieces")
    return parser


if __name__ == "__main__":
    sys.exit(main())
