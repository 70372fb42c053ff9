"""Several gateways that count their limits in one real Redis. What the limits promise then is in integration/limits."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from integration.gateway.conftest import Echo, Gateway, command, deployment, document, gateway
from procs import free_port, started
from redisd import Server, redis_server
from waiting import until

PASSWORD = "p/ss: w@rd"


@contextmanager
def a_store(password: str = "", *, tls: bool = False) -> Iterator[Server]:
    with redis_server(password, tls=tls) as redis:
        redis.has_run_long("uid", "one", "two")
        yield redis


@contextmanager
def gateways(
    folder: Path, echo: Echo, url: str, *, count: int = 2, env: dict[str, str] | None = None, **more: Any
) -> Iterator[list[Gateway]]:
    """Run some with these limits on one store."""
    shared = {"url_env": "STORE", "scope": "uid", "max_pods": 4, **({"ca_env": "CA"} if env else {})}
    told = document(deployment(echo.port), shared_limits=shared, **more)
    with ExitStack() as stack:
        here = []
        for number in range(count):
            own = folder / str(number)
            own.mkdir()
            here.append(
                stack.enter_context(gateway(own, told, env={"STORE": url, "POD_UID": f"p{number}", **(env or {})}))
            )
        yield here


class DisturbedError(Exception):
    """A busy machine took longer than the 20 ms after which a gateway goes by its share: nothing was shown."""


def calm(here: list[Gateway], cuts: int = 0) -> None:
    if any(one.metric("llmproxy_limit_store_disconnects_total") != cuts for one in here):
        raise DisturbedError


def undisturbed(test: Callable[[Echo, Path], None]) -> Callable[[Echo, Path], None]:
    """Show it again, with a new store and new gateways, when it was disturbed."""

    @functools.wraps(test)
    def run(echo: Echo, tmp_path: Path) -> None:
        for number in range(8):
            folder = tmp_path / f"try{number}"
            folder.mkdir()
            echo.reset()
            with contextlib.suppress(DisturbedError):
                return test(echo, folder)
        raise AssertionError("disturbed eight times")

    return run


def wait_mode(here: Gateway, mode: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        answer = here.admin("/readyz")
        ready: dict[str, Any] = answer.json()
        if ready["limiter"] == mode:
            assert answer.status_code == 200
            return ready
        assert time.monotonic() < deadline, ready
        time.sleep(0.05)


def statuses(here: list[Gateway], count: int) -> list[int]:
    return [here[i % len(here)].chat().status_code for i in range(count)]


@undisturbed
def test_two_gateways_admit_one_limit_and_say_how(echo: Echo, tmp_path: Path) -> None:
    with a_store(PASSWORD) as redis, gateways(tmp_path, echo, redis.url, rate_limits={"rpm": 7}) as both:
        for here in both:
            wait_mode(here, "shared")
            until(lambda here=here: here.admin("/readyz").json()["limits_store"].get("pods") == 2)  # type: ignore[misc]
        answers = [both[i % 2].chat() for i in range(12)]
        calm(both)
        for here in both:
            assert here.metric("llmproxy_limiter_mode", mode="shared") == 1
            assert here.metric("llmproxy_limiter_mode", mode="local") == 0
            until(lambda here=here: here.metric("llmproxy_limit_used", kind="rpm") == 7)  # type: ignore[misc]
            assert here.metric("llmproxy_limit_quota", kind="rpm") == 7
            answered = here.metric("llmproxy_limit_store_seconds_count")
            assert here.metric("llmproxy_limit_store_calls_total") >= answered > 0
            assert here.metric("llmproxy_limit_store_seconds_count") > 1
            assert here.metric("llmproxy_limit_store_seconds_sum") > 0
    assert sorted(a.status_code for a in answers) == [200] * 7 + [429] * 5
    assert echo.stats()["calls"] == 7
    assert [a.headers["x-ratelimit-remaining-requests"] for a in answers[-2:]] == ["0", "0"]
    assert PASSWORD not in both[0].process.output


@undisturbed
def test_when_the_store_dies_gateways_stay_ready_and_go_by_their_shares(echo: Echo, tmp_path: Path) -> None:
    with a_store() as redis, gateways(tmp_path, echo, redis.url, rate_limits={"rpm": 10}) as both:
        for here in both:
            wait_mode(here, "shared")
        first = statuses(both, 4)
        calm(both)
        assert first == [200] * 4
        redis.kill()
        for here in both:
            store = wait_mode(here, "offline_quota")["limits_store"]
            assert store["online"] is False
            assert str(redis.port) in store["reason"]
            assert store["offline_s"] >= 0
            assert here.metric("llmproxy_limit_quota", kind="rpm") == 5
            assert here.metric("llmproxy_limit_store_disconnects_total") == 1
            assert here.metric("llmproxy_limit_store_failures_total", cause="connection") >= 1
        answers = [both[i % 2].chat() for i in range(10)]
        assert sorted(a.status_code for a in answers) == [200] * 6 + [429] * 4
        assert "this pod admits only its quota" in next(a for a in answers if a.status_code == 429).text


def test_a_gateway_that_never_met_its_store_is_ready_with_the_share_of_a_stranger(echo: Echo, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    with gateways(tmp_path, echo, url, count=1, rate_limits={"rpm": 10}) as here:
        assert wait_mode(here[0], "offline_quota")["limits_store"]["pods"] == 0
        assert statuses(here, 4) == [200, 200, 429, 429]  # 10 // 4


@undisturbed
def test_a_model_without_a_limit_asks_nobody(echo: Echo, tmp_path: Path) -> None:
    with a_store() as redis, gateways(tmp_path, echo, redis.url, count=1) as here:
        wait_mode(here[0], "shared")
        before, began = here[0].metric("llmproxy_limit_store_calls_total"), time.monotonic()
        assert statuses(here, 60) == [200] * 60
        asked = here[0].metric("llmproxy_limit_store_calls_total") - before
        calm(here)
        assert asked <= 3 + 2 * (time.monotonic() - began), "more than its beat"


@undisturbed
def test_calls_at_one_time_are_counted_over_both(echo: Echo, tmp_path: Path) -> None:
    slow = '{"echo": {"delay_ms": 1500}}'
    limits = {"max_parallel": 3}
    with a_store() as redis, gateways(tmp_path, echo, redis.url, rate_limits=limits) as both:
        for here in both:
            wait_mode(here, "shared")
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(lambda i: both[i % 2].chat(slow).status_code, range(8)))
        calm(both)
        assert sorted(codes) == [200] * 3 + [429] * 5
        assert echo.stats()["max_in_flight"] == 3
        time.sleep(0.2)
        assert statuses(both, 4) == [200] * 4


@undisturbed
def test_the_way_to_the_store_can_be_encrypted(echo: Echo, tmp_path: Path) -> None:
    limits = {"rpm": 3}
    with a_store(PASSWORD, tls=True) as redis:
        env = {"CA": redis.ca}
        with gateways(tmp_path, echo, redis.url, env=env, rate_limits=limits) as both:
            assert redis.url.startswith("rediss://")
            for here in both:
                wait_mode(here, "shared")
            codes = statuses(both, 5)
            calm(both)
            assert sorted(codes) == [200, 200, 200, 429, 429]


def test_a_store_whose_certificate_is_not_known_is_not_used(echo: Echo, tmp_path: Path) -> None:
    told = {"url_env": "STORE", "scope": "uid", "max_pods": 2}
    with a_store(tls=True) as redis:
        settings = document(deployment(echo.port), shared_limits=told, rate_limits={"rpm": 2})
        with gateway(tmp_path, settings, env={"STORE": redis.url}) as here:
            assert "certificate verify failed" in wait_mode(here, "offline_quota")["limits_store"]["reason"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "STORE is not set in the environment"),
        ("http://store", "must look like redis://"),
        ("redis://store/x", "database 'x'"),
        ("redis://store:99999", "shared_limits.url_env: STORE"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_never_logged_whole(tmp_path: Path, url: str, says: str) -> None:
    told = {"url_env": "STORE", "scope": "uid", "max_pods": 2}
    process = started(*command(tmp_path, document(deployment(1), shared_limits=told)), env={"STORE": url})
    assert process.wait() == 2
    process.end()
    assert says in process.output


@undisturbed
def test_another_scope_is_another_limit(echo: Echo, tmp_path: Path) -> None:
    with a_store() as redis, ExitStack() as stack:
        for scope in ("one", "two"):
            (tmp_path / scope).mkdir()
            told = document(
                deployment(echo.port),
                rate_limits={"rpm": 2},
                shared_limits={"url_env": "STORE", "scope": scope, "max_pods": 2},
            )
            here = stack.enter_context(gateway(tmp_path / scope, told, env={"STORE": redis.url}))
            wait_mode(here, "shared")
            codes = [here.chat().status_code for _ in range(3)]
            calm([here])
            assert codes == [200, 200, 429]
