"""What is asked: the requests of every cell of the table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

MODEL = "bench"


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of load."""

    name: str
    title: str
    connections: int
    body_bytes: int
    seconds: float
    stream: bool = False
    paced: bool = False

    def body(self) -> bytes:
        """Return a chat completion request of `body_bytes`."""
        text = "[paced] " if self.paced else ""
        data = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 100}
        if self.stream:
            data["stream"] = True
        missing = self.body_bytes - len(json.dumps(data))
        words = "the quick brown fox jumps over the lazy dog "
        data["messages"] = [
            {"role": "user", "content": (text + words * (missing // len(words) + 1))[: len(text) + missing]}
        ]
        return json.dumps(data).encode()

    def request(self, path: str, headers: Mapping[str, str]) -> bytes:
        """Return the bytes to send."""
        body = self.body()
        lines = {"Host": "127.0.0.1", "Content-Type": "application/json", **headers, "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


KB = 1024
ONE = Shape("1k-c1", "1 KB, 1 client", 1, KB, 2)
SIXTEEN = Shape("1k-c16", "1 KB, 16 clients", 16, KB, 3)
MANY = Shape("1k-c64", "1 KB, 64 clients", 64, KB, 3)
LARGE = Shape("64k-c16", "64 KB, 16 clients", 16, 64 * KB, 3)
PACED = Shape("paced-c32", "32 streams, a chunk each 10 ms", 32, KB, 5, stream=True, paced=True)
BURST = Shape("burst-c16", "16 streams, as fast as they go", 16, KB, 3, stream=True)
ALL = (ONE, SIXTEEN, MANY, LARGE, PACED, BURST)
QUICK = (ONE, SIXTEEN, PACED)
CHUNKS = 50
"""Of a stream; upstream.c says so."""
