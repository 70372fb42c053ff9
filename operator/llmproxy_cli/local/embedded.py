"""`llmproxy local` for programs, as `python -m llmproxy_cli.local.embedded`.

It writes its state into a file, and terminates as on Ctrl-C when its parent process exits. The file:
`{"pid", "digest", "problem"}`; `digest` is the SHA-256 of the manifests that were read last.
"""

import argparse
import asyncio
import json
import os
import shutil
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
    """Serve until SIGTERM, SIGINT or the exit of the parent; return the exit code."""
    parser = argparse.ArgumentParser(prog="llmproxy_cli.local.embedded", description=__doc__)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument(
        "--parent", type=int, required=True, help="process id of the parent; its exit terminates this process"
    )
    parser.add_argument("--translator-python", default=sys.executable)
    arguments = parser.parse_args(argv)
    options = runner.LocalOptions(
        file=arguments.file,
        host=arguments.host,
        port=arguments.port,
        run_dir=arguments.run_dir,
        translator_python=arguments.translator_python,
        on_state=lambda state: write(arguments.state, state),
    )
    try:
        return asyncio.run(_run(options, arguments.parent))
    except (FileError, PodError, runner.LocalError) as exc:
        _say(str(exc))
        return 1
    finally:
        if os.getppid() != arguments.parent:
            _remove_files(arguments.file, arguments.state, arguments.run_dir)


def _remove_files(file: Path, state: Path, run_dir: Path) -> None:
    """Remove what a parent that is gone has left: the manifests, which hold keys, and the folder without a spool."""
    file.unlink(missing_ok=True)
    state.unlink(missing_ok=True)
    if not any(run_dir.glob("*/spool")) and {file.parent, state.parent} == {run_dir.parent}:
        shutil.rmtree(run_dir.parent, ignore_errors=True)


async def _run(options: runner.LocalOptions, parent: int) -> int:
    running = runner.LocalRunner(options, _say, lambda part, line: _say(f"{part} | {line}"))
    watching = asyncio.ensure_future(_terminate_with(parent))
    try:
        return await running.run()
    finally:
        watching.cancel()


async def _terminate_with(parent: int) -> None:
    """Terminate when the parent has exited: an orphan has another parent."""
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel only changes the number
        await asyncio.sleep(PARENT_INTERVAL_S)
    _say("the program that started this has ended")
    signal.raise_signal(signal.SIGTERM)


def write(path: Path, state: runner.RunState) -> None:
    """Replace the file atomically."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"pid": os.getpid(), **asdict(state)}))
    beside.replace(path)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
