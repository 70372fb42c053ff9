"""The memory limit of a container, as cgroups of both versions tell it."""

import os
from pathlib import Path

import pytest

from llmproxy.gateway import memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("file", "text", "limit"),
    [
        ("memory.max", "536870912\n", 512 << 20),
        ("memory.max", "max\n", MACHINE),
        ("memory/memory.limit_in_bytes", "268435456\n", 256 << 20),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", MACHINE),
        ("other", "1", MACHINE),
    ],
)
def test_the_limit_is_the_containers_else_the_machines(file: str, text: str, limit: int, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert memory.memory_limit(tmp_path) == limit


@pytest.mark.parametrize(
    ("limit", "budget"), [(512 << 20, 128 << 20), (128 << 20, memory.MIN_BUDGET), (1 << 40, memory.MAX_BUDGET)]
)
def test_bodies_may_be_there_three_times(limit: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: limit)
    assert memory.byte_budget() == budget
