"""Imports of the HTTP room."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["llmproxy.gateway.http.server", "llmproxy.gateway.http.pool"])
def test_http_can_be_imported_without_the_rest_of_the_gateway(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps([m for m in sys.modules if m.split('.')[0] == 'llmproxy']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = json.loads(done.stdout)
    assert module in ours
    assert len(ours) <= 6, sorted(ours)
