"""`python -m llmproxy.shipper`: flags, the contract document, signals; `inspect` and `replay` are in `spool_cli`."""

import llmproxy.sigterm  # noqa: F401 - handles SIGTERM from here on

# isort: split

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from llmproxy import contract, logs
from llmproxy.shipper import spool_cli
from llmproxy.shipper.app import Shipper
from llmproxy.shipper.delivery.otlp_collector import read_headers
from llmproxy.shipper.spool import layout

FLUSH_S = 12.0
"""Time that the operator leaves a shipper at the end of a pod, less a margin."""

GC_AFTER = 50_000
"""Allocations before a garbage collection: the objects of a call have no cycles and free themselves."""

log = logging.getLogger("llmproxy.shipper")


def main(argv: list[str] | None = None) -> int:
    """Run the shipper or a command of `spool_cli`; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["inspect"] or argv[:1] == ["replay"]:
        return spool_cli.main(argv)
    flags = _parser().parse_args(argv)
    logs.to_stderr()
    try:
        document = contract.load(flags.config)
    except contract.ContractError as exc:
        log.critical("config_invalid", extra={"reason": str(exc)})
        return contract.EXIT_CODE
    if document.spans is None:
        log.critical("config_invalid", extra={"reason": f"{flags.config}: spans: no store is named"})
        return contract.EXIT_CODE
    try:
        headers = read_headers(document.spans, os.environ)
    except contract.ContractError as exc:
        log.critical("config_invalid", extra={"reason": f"{flags.config}: {exc}"})
        return contract.EXIT_CODE
    gc.freeze()
    gc.set_threshold(GC_AFTER)
    try:
        lock_fds = layout.lock(flags.spool_dir), layout.lock(flags.run_dir, layout.RUN_LOCK)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(Shipper(document, document.spans, flags.spool_dir, headers), flags))
    except (layout.SpoolInUseError, OSError) as exc:
        log.critical("cannot_start", extra={"reason": str(exc)})
        return 1
    del lock_fds
    return 0


async def _serve(shipper: Shipper, flags: argparse.Namespace) -> None:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(shipper.serve(flags.run_dir, end, flags.flush_s))

    def request_end() -> None:
        if end.is_set():
            serving.cancel()  # second signal: stop at once; the rest stays on disk
        end.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, request_end)
    try:
        await serving
    except asyncio.CancelledError:
        log.warning("aborted", extra={"reason": "second signal"})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmproxy.shipper",
        description="Persists finished calls and delivers their spans to a LightningStore, an OTLP collector or both.",
        epilog="`python -m llmproxy.shipper inspect DIR` lists undelivered calls of a spool, `replay DIR` sends them.",
    )
    parser.add_argument("--config", type=Path, required=True, help="the contract document")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the sockets")
    parser.add_argument("--spool-dir", type=Path, required=True, help="folder of undelivered calls")
    parser.add_argument(
        "--flush-s",
        type=float,
        default=FLUSH_S,
        help=f"time to drain the spool at the end (default {FLUSH_S:g})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
