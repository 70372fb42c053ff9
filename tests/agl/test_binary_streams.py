"""AWS streams in binary frames with checksums: the cure for text leaves them alone, and litellm reads them."""

import binascii
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmproxy import contract
from llmproxy.translator import engine
from llmproxy.translator.transport import Transport, UpstreamTrace

BREAKERS = "a\u2028b\u2029c\u0085d ä€😀 end"


def frame(event: str, payload: dict[str, Any]) -> bytes:
    """Return a message of vnd.amazon.eventstream: lengths, their checksum, headers, payload, the checksum of it all."""
    lines = {":event-type": event, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in lines.items()
    )
    body = json.dumps(payload, ensure_ascii=False).encode()
    prelude = struct.pack("!II", len(headers) + len(body) + 16, len(headers))
    start = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + body
    return start + struct.pack("!I", binascii.crc32(start))


class Converse(BaseHTTPRequestHandler):
    """Bedrock's ConverseStream."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/vnd.amazon.eventstream")
        self.end_headers()
        self.wfile.write(frame("messageStart", {"role": "assistant"}))
        for text in BREAKERS:
            self.wfile.write(frame("contentBlockDelta", {"delta": {"text": text}, "contentBlockIndex": 0}))
        self.wfile.write(frame("messageStop", {"stopReason": "end_turn"}))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def bedrock(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Converse)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly` qualifier:UserWarning")  # litellm's own types
async def test_a_binary_stream_is_read_to_its_end_whatever_its_text(bedrock: str) -> None:
    transport = Transport()
    engine.prepare(transport, contract.Translation())
    told = {"id": "d/0", "model": "bedrock/anthropic.claude-3-haiku-20240307-v1:0", "api_base": bedrock}
    backend = engine.make_backend(contract.Deployment.model_validate(told), None, transport)
    asked = {"messages": [{"role": "user", "content": "hi"}], "stream": True}

    chunks = [chunk async for chunk in engine.stream(backend, asked, UpstreamTrace())]

    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == BREAKERS
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    await transport.close()
