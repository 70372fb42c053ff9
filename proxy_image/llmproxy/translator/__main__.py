"""`python -m llmproxy.translator --config FILE --run-dir DIR`: reads the contract document and serves on a socket."""

import llmproxy.sigterm  # noqa: F401 - takes SIGTERM from here on

# isort: split

import argparse
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from llmproxy import contract, logs, providers

SOCKET = "translator.sock"


def main(argv: list[str] | None = None) -> int:
    """Serve until it is told to end; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m llmproxy.translator",
        description="Speaks to providers that do not speak OpenAI's protocol, by LiteLLM, for the gateway beside it.",
    )
    parser.add_argument("--config", type=Path, required=True, help="the contract document")
    parser.add_argument("--run-dir", type=Path, required=True, help=f"folder of the socket {SOCKET}")
    flags = parser.parse_args(argv)
    logs.to_stderr()
    try:
        document = contract.load(flags.config)
        keys = read_keys(translated(document), os.environ)
    except contract.ContractError as exc:
        logging.getLogger("llmproxy.translator").critical("config_invalid", extra={"reason": str(exc)})
        return contract.EXIT_CODE
    return _serve(document, keys, flags.run_dir / SOCKET)


def translated(document: contract.Document) -> list[contract.Deployment]:
    """Return the deployments that need translation; raise ContractError on a provider that is not in the table."""
    deployments = []
    for deployment in (d for model in document.models for d in model.deployments):
        try:
            provider, _ = providers.split(deployment.model)
        except providers.UnknownProviderError as exc:
            raise contract.ContractError(f"deployment {deployment.id}: {exc}") from exc
        if provider.way is providers.Way.TRANSLATED:
            deployments.append(deployment)
    return deployments


def read_keys(deployments: list[contract.Deployment], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the key of each deployment that has one, by its id; raise ContractError when it is not there."""
    keys = {}
    for deployment in deployments:
        if deployment.api_key_env is None:
            continue
        key = environment.get(deployment.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise contract.ContractError(
                f"deployment {deployment.id}: environment variable {deployment.api_key_env} must hold the key"
            )
        keys[deployment.id] = key
    return keys


def _serve(document: contract.Document, keys: dict[str, str], path: Path) -> int:
    started_s = time.monotonic()
    from llmproxy.translator import engine  # noqa: PLC0415 - litellm takes seconds; a bad document is told at once
    from llmproxy.translator.app import Translator  # noqa: PLC0415 - as above
    from llmproxy.translator.transport import Transport  # noqa: PLC0415 - as above

    transport = Transport()
    engine.prepare(transport, document.translation or contract.Translation())
    backends = {d.id: engine.make_backend(d, keys.get(d.id), transport) for d in translated(document)}
    try:
        listener = _listen(path)
    except OSError as exc:
        reason = f"{path}: {exc.strerror or exc}"
        logging.getLogger("llmproxy.translator").critical("listen_failed", extra={"reason": reason})
        return 1
    config = uvicorn.Config(
        Translator(backends),
        log_config=None,
        log_level="critical",
        lifespan="off",
        access_log=False,
        timeout_graceful_shutdown=max(1, int(document.drain_timeout_s)),
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what ended it once more: an end, no failure
        signal.signal(number, lambda *_: None)
    ready = {"socket": str(path), "deployments": sorted(backends), "seconds": round(time.monotonic() - started_s, 1)}
    _TranslatorServer(config, ready).run(sockets=[listener])
    path.unlink(missing_ok=True)
    return 0


class _TranslatorServer(uvicorn.Server):
    """Logs `translator_ready`."""

    def __init__(self, config: uvicorn.Config, ready: dict[str, object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        logging.getLogger("llmproxy.translator").info("translator_ready", extra=self._ready)


def _listen(path: Path) -> socket.socket:
    """Return a listening socket at *path*; one that an ended process left is removed."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(1024)
    return listener


if __name__ == "__main__":
    sys.exit(main())
