"""A pod that is removed while it starts: its programs take SIGTERM from their first moment on."""

import signal
import subprocess
import sys

import pytest

from procs import AGL_PYTHON, ROOT

PROGRAMS = {"gateway": sys.executable, "shipper": sys.executable, "translator": str(AGL_PYTHON)}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_starts_ends_when_it_is_told_to(program: str) -> None:
    # What is imported is told line by line, so that the signal comes while most of it is still to be imported.
    command = [
        PROGRAMS[program],
        "-X",
        "importtime",
        "-m",
        f"llmproxy.{program}",
        "--config",
        "/none",
        "--run-dir",
        "/",
    ]
    env = {"PYTHONPATH": str(ROOT / "proxy_image"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            told = next((line for line in process.stderr if line.split("|")[-1].strip() == "llmproxy.sigterm"), None)
            assert told, "it was never imported"
            process.send_signal(signal.SIGTERM)
            after = process.stderr.read()

            assert process.wait(timeout=60) == 0, after  # not -15: no handler; not 2: it went on to its document
            assert "config_invalid" not in after
        finally:
            process.kill()
