"""From paths and headers to what is asked for."""

import time

import pytest

from llmproxy.gateway.http.routing import MAX_ID, Route, read_route

IDS = [(b"x-rollout-id", b"ro-h"), (b"x-attempt-id", b"at-h"), (b"x-sequence-id", b"7")]


@pytest.mark.parametrize("base", ["", "/base", "/some/deep/base"])
@pytest.mark.parametrize("version", ["", "/v1"])
@pytest.mark.parametrize(
    ("end", "endpoint"),
    [
        ("/chat/completions", "chat.completions"),
        ("/completions", "completions"),
        ("/embeddings", "embeddings"),
        ("/models", "models"),
    ],
)
def test_each_endpoint_is_found_behind_any_base_and_rollout(base: str, version: str, end: str, endpoint: str) -> None:
    assert read_route(f"{base}{version}{end}", []) == Route(endpoint)
    found = read_route(f"{base}/rollout/ro-1/attempt/at-1{version}{end}", [])
    assert found == Route(endpoint, rollout_id="ro-1", attempt_id="at-1")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v1/chat/completionsx", "/v1/modelsx"])
def test_what_is_not_ours_has_no_endpoint(path: str) -> None:
    assert read_route(path, []).endpoint == ""


@pytest.mark.parametrize(
    ("path", "endpoint", "model"),
    [
        ("/openai/deployments/gpt/chat/completions", "chat.completions", "gpt"),
        ("/v1/engines/gpt/completions", "completions", "gpt"),
        ("/engines/org/gpt/embeddings", "embeddings", "org/gpt"),
        ("/base/openai/deployments/gpt/embeddings", "embeddings", "gpt"),
        ("/v1/models/org/gpt", "models", "org/gpt"),
    ],
)
def test_a_model_may_stand_in_the_path(path: str, endpoint: str, model: str) -> None:
    assert read_route(path, []) == Route(endpoint, model)
    under = read_route("/rollout/r/attempt/a" + path, [])
    assert under == Route(endpoint, model, "r", "a")


@pytest.mark.parametrize("part", ["/engines", "/openai/deployments", "/models/x\n", "/rollout/", "/rollout/a/attempt/"])
@pytest.mark.parametrize("end", ["", "/x", "/chat/completions"])
def test_a_long_path_takes_no_time_to_speak_of(part: str, end: str) -> None:
    """A path may have 64 KB, and whoever sends it has shown no key: one took four seconds."""
    path = part * (64_000 // len(part)) + end
    began_s = time.process_time()
    read_route(path, [])
    assert time.process_time() - began_s < 0.5


def test_headers_name_the_rollout_when_the_path_does_not() -> None:
    assert read_route("/v1/chat/completions", IDS) == Route("chat.completions", "", "ro-h", "at-h", 7)


def test_the_path_wins_over_headers() -> None:
    found = read_route("/rollout/ro-p/attempt/at-p/v1/chat/completions", IDS)
    assert found == Route("chat.completions", "", "ro-p", "at-p", 0)


@pytest.mark.parametrize(
    ("path", "headers", "unusable"),
    [
        ("/v1/completions", [], False),
        ("/v1/completions", [IDS[1]], False),  # an attempt alone names no rollout
        ("/v1/completions", IDS[:1], True),
        ("/rollout/r/v1/completions", [], True),
        ("/rollout/r/x/attempt/a/v1/completions", [], True),  # from `r%2Fx`
        (f"/rollout/{'r' * (MAX_ID + 1)}/attempt/a/v1/completions", [], True),
        (f"/rollout/r/attempt/{'a' * (MAX_ID + 1)}/v1/completions", [], True),
        ("/v1/completions", [(b"x-rollout-id", b"r" * (MAX_ID + 1)), IDS[1]], True),
    ],
)
def test_a_rollout_that_is_named_in_vain_is_known(
    path: str, headers: list[tuple[bytes, bytes]], *, unusable: bool
) -> None:
    assert read_route(path, headers) == Route("completions", invalid=unusable), "and none of it is taken"


@pytest.mark.parametrize("missing", [0, 1])
def test_half_of_the_ids_is_none(missing: int) -> None:
    assert read_route("/v1/chat/completions", [IDS[1 - missing]]).rollout_id == ""


@pytest.mark.parametrize("sequence", [b"x", b"-1", b"1.5", b"9" * 40, b"", "²".encode()])
def test_a_sequence_id_that_is_no_number_is_left_to_the_store(sequence: bytes) -> None:
    assert read_route("/v1/chat/completions", [*IDS[:2], (b"x-sequence-id", sequence)]).sequence_id == 0


def test_a_path_is_read_the_same_however_many_others_came_before() -> None:
    paths = [f"/rollout/ro-{n}/attempt/at-{n}/v1/chat/completions" for n in range(5000)]
    for again in range(2):
        read_route("/rollout/ro-0/attempt/at-0/v1/chat/completions" + "/" * (1 + again) * 300, IDS)
        for n, path in enumerate(paths):
            assert read_route(path, IDS) == Route("chat.completions", "", f"ro-{n}", f"at-{n}", 0)
