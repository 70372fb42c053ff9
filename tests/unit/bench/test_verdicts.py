"""What a run is judged by and how it is told, on numbers that the tests make up."""

import pytest

from bench.floors import floors
from bench.places import Cores
from bench.plot import plot
from bench.report import BEGIN, END, number, page, paste, problems, readme
from bench.results import Found, Result, combine
from bench.shapes import ALL, LARGE, ONE, PACED, SIXTEEN

CELL = {
    "rps": 1000.0,
    "p50_ms": 0.2,
    "p99_ms": 1.0,
    "cpu_us": 50.0,
    "core_share": 0.9,
    "first_byte_p50_ms": 11.0,
    "first_byte_p99_ms": 12.0,
    "lag_p50_ms": 0.2,
    "lag_p99_ms": 1.0,
    "chunk_cpu_us": 30.0,
    "chunks_per_s": 3000.0,
    "helper_cpu_us": None,
    "unrecorded": None,
    "outside_cores": 0.0,
    "requests": 1000,
    "errors": 0,
    "failed": "",
}


def found(name: str, **changed: object) -> Found:
    return Found(name, name.title(), "1.0", 0.5, 40.0, {shape.name: {**CELL, **changed} for shape in ALL})


def result(*peers: Found) -> Result:
    machine: dict[str, str | int] = {"cpu": "c", "cores": 2, "kernel": "6", "python": "3"}
    return Result("2026-01-01", machine, 1, list(peers), {})


def verdicts(*peers: Found) -> dict[str, str]:
    return {floor.title: floor.verdict for floor in floors(result(*peers))}


def test_each_floor_is_judged_by_its_own_number() -> None:
    fast = verdicts(
        found("gateway"), found("direct", p50_ms=0.02), found("nginx", rps=4000.0), found("litellm", rps=10.0)
    )
    assert set(fast.values()) == {"PASS"}
    slow = verdicts(
        found("gateway", cpu_us=60.1, p50_ms=0.3, chunk_cpu_us=46.0, lag_p99_ms=1.6),
        found("direct", p50_ms=0.02),
        found("nginx", rps=4001.0),
        found("litellm", rps=10.1),
    )
    own = {"memory of the gateway", "start of the gateway to ready"}
    assert {title for title, verdict in slow.items() if verdict == "FAIL"} == set(slow) - own


def test_what_was_not_measured_is_skipped_and_what_failed_is_no_number() -> None:
    alone = verdicts(found("gateway"))
    assert [verdict for title, verdict in alone.items() if "against" in title or "added" in title] == ["SKIP"] * 3
    broken = found("gateway")
    broken.cells[SIXTEEN.name] |= {"failed": "refused", "errors": 900}
    assert verdicts(broken)["CPU of a 1 KB request, all features on"] == "SKIP"
    assert "900 of 1000 failed: refused" in problems(result(broken))[0]


def test_rounds_become_medians_and_a_failed_round_does_not_count() -> None:
    rounds = [found("nginx", rps=rps) for rps in (100.0, 900.0, 200.0)]
    assert combine(rounds).value(ONE.name, "rps") == 200.0
    rounds[1].cells[ONE.name]["failed"] = "refused"
    assert combine(rounds).value(ONE.name, "rps") == 150.0
    assert combine([found("nginx", lag_p99_ms=None)]).value(PACED.name, "lag_p99_ms") is None


def test_noise_and_lost_records_are_told() -> None:
    noisy = found("gateway", outside_cores=0.4)
    noisy.notes.update(durable=90.0, dropped=10.0)
    noisy.cells[LARGE.name] |= {"unrecorded": 8}
    said = problems(result(noisy))
    assert any("10 of 100 records" in line and line.endswith(f"slower: {LARGE.name} 8") for line in said)
    assert any("0.4 cores" in line for line in said)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (26143.0, "26,100"),
        (100.4, "100"),
        (38.44, "38.4"),
        (0.1309, "0.131"),
        (0.0, "0"),
        (None, "-"),
        (1999.6, "2,000"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_tables_have_a_row_for_each_and_go_between_the_marks() -> None:
    run = result(found("gateway"), found("nginx"))
    assert readme(run).count("\n") == 3
    assert "| Nginx |" in page(run)
    pasted = paste(f"a\n{BEGIN}\nold\n{END}\nb", "new")
    assert pasted == f"a\n{BEGIN}\nnew\n{END}\nb"
    assert paste(pasted, "new") == pasted
    with pytest.raises(ValueError, match="must stand"):
        paste("no marks", "new")


def test_the_plot_has_a_bar_for_each_gateway_in_both_panels() -> None:
    svg = plot(result(found("gateway", rps=20000.0), found("nginx", rps=60000.0), found("litellm", cpu_us=7000.0)))
    assert svg.count("rx='2'") == 6
    assert svg.index("Nginx") < svg.index("this gateway") < svg.index("Litellm")


def test_a_request_has_the_size_that_its_title_says() -> None:
    for shape in ALL:
        assert abs(len(shape.body()) - shape.body_bytes) <= 1, shape.name
    assert b'"stream": true' in PACED.body()
    assert b"[paced]" in PACED.body()
    assert b"stream" not in LARGE.body()


def test_the_proxy_never_shares_its_core() -> None:
    assert Cores.choose({4, 7}) == Cores(proxy=4, load=7, upstream=7, rest=7)
    assert Cores.choose({0, 1, 2, 3, 4}) == Cores(0, 1, 2, 3)
    with pytest.raises(ValueError, match="two cores"):
        Cores.choose({3})
