"""`python -m llmproxy.gateway --config FILE --run-dir DIR`: serve a contract document until SIGTERM.

Keys of upstreams, PEER_TOKEN (the shared secret of the proxy's pods) and POD_UID are environment variables.
"""

import llmproxy.sigterm  # noqa: F401 - takes SIGTERM from here on

# isort: split

import argparse
import asyncio
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from llmproxy import contract, logs
from llmproxy.gateway.admin.server import listen
from llmproxy.gateway.process import Gateway, Settings

log = logging.getLogger("llmproxy.gateway")


def main(argv: list[str] | None = None) -> int:
    """Serve; return the exit code."""
    flags = _parser().parse_args(argv)
    logs.to_stderr()
    try:
        document = contract.load(flags.config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(flags, document))
    except contract.ContractError as exc:
        log.critical("config_invalid", extra={"reason": str(exc)})
        return contract.EXIT_CODE
    except OSError as exc:
        log.critical("listen_failed", extra={"reason": exc.strerror or str(exc)})
        return 1
    return 0


async def _serve(flags: argparse.Namespace, document: contract.Document) -> None:
    token_file: Path | None = flags.control_token_file
    gateway = Gateway(
        Settings(
            document=document,
            run_dir=flags.run_dir,
            listener=socket.socket(fileno=flags.fd) if flags.fd is not None else listen(flags.host, flags.port),
            admin_listener=listen(flags.admin_host, flags.admin_port),
            peer_host=flags.peer_host,
            peer_port=flags.peer_port,
            peer_token=os.environ.get("PEER_TOKEN", ""),
            peers=tuple(address for address in flags.peers.split(",") if address),
            control_listener=listen(flags.control_host, flags.control_port) if token_file is not None else None,
            control_token_file=token_file,
            keys_dir=flags.keys_dir,
            pod=os.environ.get("POD_UID", "") or f"{socket.gethostname()}-{os.getpid()}",
        )
    )
    await gateway.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmproxy.gateway", description="Serves the models of a contract document to OpenAI clients."
    )
    parser.add_argument("--config", type=Path, required=True, help="the contract document")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the sockets and of the limits' counters")
    parser.add_argument("--host", default="", help="address to listen on; default: all")
    parser.add_argument("--port", type=int, default=4000)
    parser.add_argument("--fd", type=int, help="an inherited listening socket, in place of --host and --port")
    parser.add_argument("--admin-host", default="")
    parser.add_argument("--admin-port", type=int, default=9090, help="health and metrics")
    parser.add_argument("--control-host", default="")
    parser.add_argument("--control-port", type=int, default=9091, help="pause and resume; needs --control-token-file")
    parser.add_argument("--control-token-file", type=Path, help="file with the token of the control port")
    parser.add_argument("--keys-dir", type=Path, help="folder with the API keys of clients, a file each")
    parser.add_argument("--peer-host", default=os.environ.get("POD_IP", ""), help="default: POD_IP, else all")
    parser.add_argument("--peer-port", type=int, default=9092, help="other pods of this proxy; needs PEER_TOKEN")
    parser.add_argument("--peers", default="", help="host[:port] of other pods, several by commas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
