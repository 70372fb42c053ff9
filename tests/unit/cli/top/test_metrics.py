"""Rates, percentiles and usage of limits from samples of metrics."""

import pytest

from llmproxy_cli.top import metrics, view
from llmproxy_cli.top.metrics import Backlog, History, LimitUsage, PodMetrics, ProxyRow, Sample
from podmetrics import a_pod


def row_of(*seen: list[PodMetrics], length: int = 10) -> ProxyRow:
    """Return what is shown after looks that are 2 s apart."""
    history = History(length)
    for at, pods in enumerate(seen):
        history.add(Sample(2.0 * at, tuple(pods)))
    [row] = history.rows()
    return row


def test_rates_are_increases_over_the_time_between_looks() -> None:
    row = row_of([a_pod(answered=100, limited=7, failed=1)], [a_pod(answered=104, limited=10, failed=2)])

    assert (row.requests_per_s, row.limited_per_s, row.failed_per_s) == (4.0, 1.5, 0.5)


def test_one_look_has_no_rate() -> None:
    row = row_of([a_pod(answered=100)])

    assert (row.requests_per_s, row.limited_per_s, row.p50_s) == (None, None, None)
    assert (row.in_flight, row.waiting, row.pods) == (2, 1, 1)


def test_a_process_that_was_started_again_counts_from_zero() -> None:
    row = row_of([a_pod(answered=100)], [a_pod(answered=6)])

    assert row.requests_per_s == 3.0


def test_a_pod_that_is_new_brings_no_calls_of_before() -> None:
    row = row_of([a_pod(answered=1)], [a_pod(answered=1), a_pod("p-2", answered=5000)])

    assert row.requests_per_s == 0.0
    assert row.pods == 2


def test_old_looks_are_left_behind() -> None:
    row = row_of([a_pod(answered=0)], [a_pod(answered=1000)], [a_pod(answered=1002)], length=1)

    assert row.requests_per_s == 1.0


def test_percentiles_are_of_the_calls_between_the_looks() -> None:
    before = {"0.1": 90, "1.0": 90, "+Inf": 90}
    after = {"0.1": 90, "1.0": 100, "+Inf": 100}

    row = row_of([a_pod(buckets=before)], [a_pod(buckets=after)])

    assert row.p50_s == pytest.approx(0.55)
    assert row.p99_s == pytest.approx(0.991)


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        pytest.param(0.5, {}, None, id="nothing"),
        pytest.param(0.5, {1.0: 0, float("inf"): 0}, None, id="no call"),
        pytest.param(0.5, {1.0: 10, float("inf"): 10}, 0.5, id="evenly within a bucket"),
        pytest.param(0.5, {1.0: 4, 3.0: 8, float("inf"): 8}, 1.0, id="on a bound"),
        pytest.param(0.99, {1.0: 1, float("inf"): 10}, 1.0, id="above the last bound"),
        pytest.param(0.5, {1.0: 0, 2.0: 2, float("inf"): 2}, 1.5, id="an empty bucket before"),
    ],
)
def test_quantiles(share: float, buckets: dict[float, float], expected: float | None) -> None:
    assert metrics.quantile(share, buckets) == expected


def test_pods_with_common_counters_tell_one_use_and_pods_on_shares_a_part_each() -> None:
    common = metrics.limit_usages([a_pod(mode="shared", used=4), a_pod("p-2", mode="shared", used=5)])
    parted = metrics.limit_usages([a_pod(mode="offline_quota", used=4), a_pod("p-2", mode="offline_quota", used=5)])

    assert common == (LimitUsage("", "rpm", 5, 10),)
    assert parted == (LimitUsage("", "rpm", 9, 10),)


def test_the_mode_of_a_roll_is_that_of_the_pod_that_decides() -> None:
    assert row_of([a_pod(mode="leader"), a_pod("p-2", mode="local")]).mode == "local"
    assert row_of([a_pod(mode="offline_quota")]).mode == "offline_quota"


def test_the_backlog_is_what_is_not_in_the_store() -> None:
    more = """\
llmproxy_records_pending 3
llmproxy_shipper_in_delivery 4
llmproxy_shipper_retry_calls 5
llmproxy_shipper_waiting_bytes 2048
llmproxy_shipper_oldest_undelivered_seconds 7.5
"""
    row = row_of([a_pod(more=more)])

    assert row.backlog == Backlog(calls=12, waiting_bytes=2048, oldest_s=7.5)
    assert view.behind(row.backlog) == "12 calls 2KiB 7.5s"
    assert row_of([a_pod()]).backlog is None


def test_calls_without_token_ids_are_shown() -> None:
    row = row_of([a_pod(more="llmproxy_shipper_waiting_bytes 0\nllmproxy_shipper_token_ids_missing_total 3\n")])
    assert view.behind(row.backlog) == "3 without token ids"


@pytest.mark.parametrize(
    "text", ["<html>not found</html>", "", "go_goroutines 7\n", 'llmproxy_requests_in_flight{a="b} 1\n']
)
def test_what_is_no_metrics_of_a_gateway_is_said(text: str) -> None:
    with pytest.raises(metrics.MetricsError):
        metrics.parse(text)
