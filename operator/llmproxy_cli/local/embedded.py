"""`python -m llmproxy_cli.local.embedded`: what `llmproxy local` runs, for a program that has started it.

It needs nothing to print with, writes what is in force into a file, and ends like on Ctrl-C when the program that
started it is gone. The file: `{"pid", "seen", "problem"}`; `seen` is the SHA-256 of the manifests looked at last.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from llmproxy_cli.local import runner
from llmproxy_cli.local.pod import PodError
from llmproxy_cli.manifests import FileError

PARENT_INTERVAL_S = 0.5


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM, SIGINT or the end of the parent; return the exit code."""
    parser = argparse.ArgumentParser(prog="llmproxy_cli.local.embedded", description=__doc__)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True, help="id of the process whose end is ours")
    parser.add_argument("--translator-python", default=sys.executable)
    given = parser.parse_args(argv)
    options = runner.Options(
        file=given.file,
        host=given.host,
        port=given.port,
        run_dir=given.run_dir,
        translator_python=given.translator_python,
        told=lambda state: write(given.state, state),
    )
    try:
        return asyncio.run(_run(options, given.parent))
    except (FileError, PodError, runner.LocalError) as exc:
        _say(str(exc))
        return 1


async def _run(options: runner.Options, parent: int) -> int:
    running = runner.Local(options, _say, lambda part, line: _say(f"{part} | {line}"))
    watching = asyncio.ensure_future(_end_with(parent))
    try:
        return await running.run()
    finally:
        watching.cancel()


async def _end_with(parent: int) -> None:
    """Ask for the end when the parent has gone: an orphan has another parent."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of it but the kernel, by another number
        await asyncio.sleep(PARENT_INTERVAL_S)
    _say("the program that started this has ended")
    signal.raise_signal(signal.SIGTERM)


def write(path: Path, state: runner.State) -> None:
    """Write *state* so that a reader sees all of it or what was before."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"pid": os.getpid(), **asdict(state)}))
    beside.replace(path)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
