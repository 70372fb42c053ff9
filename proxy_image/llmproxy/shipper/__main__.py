"""`python -m llmproxy.shipper`: flags, the contract document, signals; `inspect` and `replay` are in `offline`."""

import llmproxy.sigterm  # noqa: F401 - takes SIGTERM from here on

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
"""What the operator leaves a shipper at the end of a pod, less a margin."""

GC_AFTER = 50_000
"""Objects that are made before a collection: what a call is made of has no cycles, and frees itself."""

log = logging.getLogger("llmproxy.shipper")


def main(argv: list[str] | None = None) -> int:
    """Run; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["inspect"] or argv[:1] == ["replay"]:
        return spool_cli.main(argv)
    flags = _parser().parse_args(argv)
    logs.to_stderr()
    try:
        document = contract.load(flags.config)
    except contract.ContractError as exc:
        log.critical("document_refused", extra={"reason": str(exc)})
        return contract.EXIT_CODE
    if document.spans is None:
        log.critical("document_refused", extra={"reason": f"{flags.config}: spans: no store is named"})
        return contract.EXIT_CODE
    try:
        headers = read_headers(document.spans, os.environ)
    except contract.ContractError as exc:
        log.critical("document_refused", extra={"reason": f"{flags.config}: {exc}"})
        return contract.EXIT_CODE
    gc.freeze()
    gc.set_threshold(GC_AFTER)
    try:
        held = layout.lock(flags.spool_dir)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(Shipper(document, document.spans, flags.spool_dir, headers), flags))
    except (layout.InUseError, OSError) as exc:
        log.critical("cannot_start", extra={"reason": str(exc)})
        return 1
    del held
    return 0


async def _serve(shipper: Shipper, flags: argparse.Namespace) -> None:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(shipper.serve(flags.run_dir, end, flags.flush_s))

    def ask_to_end() -> None:
        if end.is_set():
            serving.cancel()  # asked twice: at once; what is left stays on disk
        end.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_end)
    try:
        await serving
    except asyncio.CancelledError:
        log.warning("ended_at_once", extra={"reason": "asked twice"})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmproxy.shipper",
        description="Keeps calls on disk and delivers spans of them to a LightningStore, a collector or both.",
        epilog="`python -m llmproxy.shipper inspect DIR` lists what is in a spool, `replay DIR` sends it.",
    )
    parser.add_argument("--config", type=Path, required=True, help="the contract document")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the sockets")
    parser.add_argument("--spool-dir", type=Path, required=True, help="folder of calls that are not delivered yet")
    parser.add_argument(
        "--flush-s",
        type=float,
        default=FLUSH_S,
        help=f"time to empty the spool at the end (default {FLUSH_S:g})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
