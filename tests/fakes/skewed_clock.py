#!/usr/bin/env python3
"""A shipper whose clock on the wall is wrong by as many seconds as a file says: `python skewed_clock.py FILE FLAGS...`.

Everything else of the process is real. The clock that does not jump is left alone, as a kernel leaves it.
"""

import sys
import time
from pathlib import Path

from llmproxy.shipper.__main__ import main

FILE = Path(sys.argv[1])
_real_ns = time.time_ns


def _now_ns() -> int:
    return _real_ns() + int(FILE.read_text()) * 10**9


if __name__ == "__main__":
    time.time_ns = _now_ns
    time.time = lambda: _now_ns() / 1e9
    sys.exit(main(sys.argv[2:]))
