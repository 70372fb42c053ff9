"""What answers are, for every pair of client and upstream, with the SDKs that people use."""

import json
from typing import Any

import anthropic
import pytest

from integration.protocols.conftest import Rig
from integration.protocols.matrix import covers
from integration.protocols.users import PNG, SCHEMA, Question, Said, User

ODD = "a\u0085b\u2028c\u2029d 🦊👩🏽\u200d🚀 e\u0301 ÿ"
PREFIX = {"openai": "chatcmpl-", "anthropic": "msg_"}
SUFFIX = {"openai": "echo-", "vllm": "echo-", "anthropic": "011CFake"}
Json = dict[str, Any]


def both(user: User, model: str, question: Question) -> list[Said]:
    """Ask plainly and by a stream; all but the id must be the same."""
    plain, streamed = user.ask(model, question), user.stream(model, question)
    for name in ("text", "thought", "stop", "prompt_tokens", "completion_tokens"):
        assert getattr(plain, name) == getattr(streamed, name), name
    assert [(c.name, c.input) for c in plain.calls] == [(c.name, c.input) for c in streamed.calls]
    return [plain, streamed]


@covers("plain")
def test_plain(rig: Rig, client: str, upstream: str) -> None:
    said = rig.user(client).ask(rig.model(upstream), Question("hello"))
    assert said.text.endswith("You said: hello")
    assert said.stop == {"openai": "stop", "anthropic": "end_turn"}[client]
    assert said.id.startswith(PREFIX[client] + SUFFIX[upstream])
    assert said.prompt_tokens > 0
    assert said.completion_tokens > 3


@covers("stream")
def test_stream(rig: Rig, client: str, upstream: str) -> None:
    said = both(rig.user(client), rig.model(upstream), Question("hello to all of you"))[1]
    assert said.pieces > 5
    assert said.id.startswith(PREFIX[client] + SUFFIX[upstream])


@covers("text")
def test_text(rig: Rig, client: str, upstream: str) -> None:
    user, model = rig.user(client), rig.model(upstream)
    for said in both(user, model, Question(ODD)):
        assert said.text.endswith(ODD)
    for size in (1, 2, 3) if upstream == "anthropic" else ():
        how = rig.directive(upstream, say=ODD, chunk_bytes=size)
        assert user.stream(model, Question(how)).text == ODD


@covers("system")
def test_system(rig: Rig, client: str, upstream: str) -> None:
    rig.user(client).ask(rig.model(upstream), Question("x", system=ODD))
    body = rig.seen(upstream)["last"]["body"]
    if upstream == "anthropic":
        assert body["system"] == ODD
        assert len(body["messages"]) == 1
    else:
        assert body["messages"][0] == {"role": "system", "content": ODD}


def conversation(user: User, model: str, question: Question, *results: tuple[str, bool]) -> tuple[Said, Said]:
    """Return what the model answers, and what it says to the results of the tools that it called."""
    first = both(user, model, question)[0]
    given = tuple((c.id, text, bad) for c, (text, bad) in zip(first.calls, results, strict=True))
    before = ({"role": "user", "content": question.text}, first.turn)
    second = both(user, model, Question("", tools=question.tools, before=before, results=given))[0]
    return first, second


@covers("tools")
def test_tools(rig: Rig, client: str, upstream: str) -> None:
    place = {"place": f"Zürich {ODD}"}
    asked = Question(f"call look {json.dumps(place, ensure_ascii=False)}", tools=("look", "taste"))
    first, second = conversation(rig.user(client), rig.model(upstream), asked, (f"sunny {ODD}", False))
    assert [(c.name, c.input) for c in first.calls] == [("look", place)]
    assert first.stop == {"openai": "tool_calls", "anthropic": "tool_use"}[client]
    assert f"sunny {ODD}" in second.text
    assert second.calls == []


@covers("parallel tools")
def test_parallel_tools(rig: Rig, client: str, upstream: str) -> None:
    user, model = rig.user(client), rig.model(upstream)
    asked = Question('call look {"place": "Bern"}\ncall taste', tools=("look", "taste"))
    first, second = conversation(user, model, asked, ("sunny", False), ("sweet", False))
    assert [(c.name, c.input) for c in first.calls] == [("look", {"place": "Bern"}), ("taste", {})]
    assert len({c.id for c in first.calls}) == 2
    assert "sweet" in second.text
    alone = user.ask(model, Question(asked.text, tools=asked.tools, one_at_a_time=True))
    assert [c.name for c in alone.calls] == ["look"]


@covers("forced tool")
def test_forced_tool(rig: Rig, client: str, upstream: str) -> None:
    asked = Question('call look {"place": "Bern"}', tools=("look", "taste"), forced=True)
    said = rig.user(client).ask(rig.model(upstream), asked)
    assert [c.name for c in said.calls] == ["look"]
    choice = rig.seen(upstream)["last"]["body"]["tool_choice"]
    by_name = {"type": "tool", "name": "look"} if upstream == "anthropic" else {"type": "function"}
    assert by_name.items() <= choice.items()


@covers("tool errors")
def test_tool_errors(rig: Rig, client: str, upstream: str) -> None:
    asked = Question("call look", tools=("look",))
    _, second = conversation(rig.user(client), rig.model(upstream), asked, ("it burns", True))
    assert "it burns" in second.text
    if client == "anthropic":
        last = rig.seen(upstream)["last"]["body"]["messages"][-1]
        if upstream == "anthropic":
            assert last["content"][0]["is_error"] is True
        else:
            assert last["content"] == "Error: it burns"


@covers("json mode")
def test_json_mode(rig: Rig, client: str, upstream: str) -> None:
    said = both(rig.user(client), rig.model(upstream), Question("x", json_mode=True))[0]
    if upstream == "anthropic":
        assert json.loads(said.text) == {"said": "x"}
        assert said.calls == []
        assert said.stop == "stop"
    else:
        assert rig.seen(upstream)["last"]["body"]["response_format"] == {"type": "json_object"}


@covers("json schema")
def test_json_schema(rig: Rig, client: str, upstream: str) -> None:
    said = both(rig.user(client), rig.model(upstream), Question("x", schema=SCHEMA))[0]
    body = rig.seen(upstream)["last"]["body"]
    if upstream == "anthropic":
        assert json.loads(said.text) == {"answer": "x"}
        assert body["output_config"]["format"]["schema"] == SCHEMA
    else:
        assert body["response_format"]["json_schema"]["schema"] == SCHEMA


@covers("images")
def test_images(rig: Rig, client: str, upstream: str) -> None:
    for image in ("png", "https://example.com/a.png"):
        said = rig.user(client).ask(rig.model(upstream), Question("see", image=image))
        assert said.text.endswith("You said: see")
        shown = rig.seen(upstream)["last"]["body"]["messages"][0]["content"][1]
        if upstream == "anthropic":
            assert shown["type"] == "image"
            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            assert shown["source"] == (source if image == "png" else {"type": "url", "url": image})
        else:
            url = f"data:image/png;base64,{PNG}" if image == "png" else image
            assert shown == {"type": "image_url", "image_url": {"url": url}}


@covers("reasoning")
def test_reasoning(rig: Rig, client: str, upstream: str) -> None:
    asked = Question(rig.directive(upstream, think=f"Hm. {ODD}", say="yes"), effort="high", max_tokens=4000)
    said = both(rig.user(client), rig.model(upstream), asked)[0]
    assert said.thought == f"Hm. {ODD}"
    assert said.text.endswith("yes")
    body = rig.seen(upstream)["last"]["body"]
    if upstream == "anthropic":
        assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "high"})
    else:
        assert body["reasoning_effort"] == "high"


def test_signed_thinking_goes_back_to_anthropic(rig: Rig) -> None:
    asked = Question("call look", tools=("look",), effort="low", max_tokens=4000)
    for client in ("openai", "anthropic"):
        first, second = conversation(rig.user(client), rig.model("anthropic"), asked, ("sunny", False))
        assert first.thought
        assert "sunny" in second.text
        blocks = rig.seen("anthropic")["last"]["body"]["messages"][1]["content"]
        assert [b["type"] for b in blocks] == ["thinking", "tool_use"]


def test_older_models_think_by_a_budget(rig: Rig) -> None:
    said = rig.user("openai").ask("older", Question("x", effort="medium", max_tokens=4000))
    assert said.thought
    body = rig.seen("anthropic")["last"]["body"]
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2048}


@covers("cache control")
def test_cache_control(rig: Rig, client: str, upstream: str) -> None:
    rig.user(client).ask(rig.model(upstream), Question("a long document", cached=True))
    kept = upstream == "anthropic" or client == "openai"  # an OpenAI client's bytes are forwarded as they are
    assert ("cache_control" in json.dumps(rig.seen(upstream)["last"]["body"])) is kept


@covers("cached tokens")
def test_cached_tokens(rig: Rig, client: str, upstream: str) -> None:
    asked = Question("a long document that is read again and again", cached=True)
    user, model = rig.user(client), rig.model(upstream)
    first, second = user.ask(model, asked), user.stream(model, asked)
    assert (first.cached_tokens, second.cached_tokens) == (0, 9)
    assert first.prompt_tokens == second.prompt_tokens


@covers("stop sequences")
def test_stop_sequences(rig: Rig, client: str, upstream: str) -> None:
    asked = Question("one STOP two", stop=("nowhere", "STOP"))
    said = both(rig.user(client), rig.model(upstream), asked)[0]
    assert said.text.endswith("You said: one ")
    assert said.stop == {"openai": "stop", "anthropic": "stop_sequence"}[client]
    body = rig.user(client).body(rig.model(upstream), asked)
    raw = rig.post(client, body).json()
    named = raw["choices"][0].get("stop_reason") if client == "openai" else raw["stop_sequence"]
    assert named == "STOP"


@covers("max tokens")
def test_max_tokens(rig: Rig, client: str, upstream: str) -> None:
    said = both(rig.user(client), rig.model(upstream), Question("hello", max_tokens=3))[0]
    assert said.stop == {"openai": "length", "anthropic": "max_tokens"}[client]
    assert said.completion_tokens > 0


@covers("sampling")
def test_sampling(rig: Rig, client: str, upstream: str) -> None:
    asked = Question("x", extra={"temperature": 1, "top_k": 1})
    user, model = rig.user(client), rig.model(upstream)
    if (client, upstream) == ("anthropic", "anthropic"):
        # The SDK speaks version 2026-10-21, which has no sampling: the upstream says so, in its words.
        with pytest.raises(anthropic.BadRequestError, match="Extra inputs are not permitted"):
            user.ask(model, asked)
        body = user.body(model, asked) | asked.extra
        assert rig.post(client, body, **{"anthropic-version": "2023-06-01"}).status_code == 200
    else:
        user.ask(model, asked)
    body = rig.seen(upstream)["last"]["body"]
    assert (body["temperature"], body["top_k"]) == (1, 1)


def test_params_that_only_the_older_version_takes_make_a_call_of_that_version(rig: Rig) -> None:
    said = rig.user("anthropic").ask("with-params", Question("x", max_tokens=50))
    assert said.text.endswith("x")
    last = rig.seen("anthropic")["last"]
    assert last["headers"]["anthropic-version"] == "2023-06-01"
    assert (last["body"]["top_k"], last["body"]["max_tokens"]) == (1, 50)
    body = {"model": "with-params", "messages": [{"role": "user", "content": "x"}]}
    assert rig.post("openai", body).json()["choices"][0]["finish_reason"] == "length"  # max_tokens of the params


def test_what_anthropic_must_see_of_a_head_is_forwarded_and_keys_are_not(rig: Rig) -> None:
    body = rig.user("anthropic").body("m-anthropic", Question("x"))
    headers = {"anthropic-beta": "some-beta-2026-01-01", "x-api-key": "of-the-client", "x-other": "1"}
    assert rig.post("anthropic", body, **headers).status_code == 200  # so the deployment's key was sent
    seen = rig.seen("anthropic")["last"]["headers"]
    assert seen["anthropic-version"] == "2026-10-21"
    assert seen["anthropic-beta"] == "some-beta-2026-01-01"
    assert "x-other" not in seen
    del body["max_tokens"]
    assert rig.post("anthropic", body).json()["error"]["message"] == "max_tokens: Field required"


@covers("user")
def test_user(rig: Rig, client: str, upstream: str) -> None:
    rig.user(client).ask(rig.model(upstream), Question("x", user="someone"))
    body = rig.seen(upstream)["last"]["body"]
    assert (body["metadata"]["user_id"] if upstream == "anthropic" else body["user"]) == "someone"


@covers("token ids")
def test_token_ids(rig: Rig, client: str, upstream: str) -> None:
    user = rig.user(client, rollout="/rollout/ro-1/attempt/at-1")
    for way in (user.ask, user.stream):
        rig.recorder.calls.clear()
        said = way(rig.model(upstream), Question("hello"))
        call = rig.recorder.last()
        assert (call.rollout_id, call.route, call.status, call.error) == ("ro-1", "chat.completions", 200, "")
        assert ("return_token_ids" in json.loads(call.request)) is (upstream == "vllm")
        assert (b'"token_ids"' in call.response) is (upstream == "vllm")
        assert (b'"prompt_token_ids"' in call.response) is (upstream == "vllm")
        assert (b'"logprobs":{' in call.response.replace(b" ", b"")) is (upstream == "vllm")
        assert said.text.endswith("hello")


def test_a_call_of_anthropics_is_recorded_in_its_own_terms(rig: Rig) -> None:
    for client in ("openai", "anthropic"):
        rig.recorder.calls.clear()
        rig.user(client, rollout="/rollout/ro-1/attempt/at-1").ask("m-anthropic", Question("hello"))
        call = rig.recorder.last()
        assert (call.route, call.provider, call.upstream_model) == ("messages", "anthropic", "claude-fake-5")
        assert json.loads(call.response)["type"] == "message"


@covers("count tokens")
def test_count_tokens(rig: Rig, client: str, upstream: str) -> None:
    user = rig.user(client, rollout="/rollout/ro-1/attempt/at-1")
    assert isinstance(user.sdk, anthropic.Anthropic)
    rig.recorder.calls.clear()
    asked: Json = {"model": rig.model(upstream), "messages": [{"role": "user", "content": "one two three"}]}
    if upstream == "anthropic":
        assert user.sdk.messages.count_tokens(**asked).input_tokens == 3
        assert "max_tokens" not in rig.seen(upstream)["last"]["body"]
    else:
        with pytest.raises(anthropic.NotFoundError, match="has no count_tokens here"):
            user.sdk.messages.count_tokens(**asked)
    user.ask(rig.model(upstream), Question("x"))
    assert rig.recorder.last().request  # the first record is of the call, not of the count
    assert len(rig.recorder.calls) == 1


@covers("models")
def test_models(rig: Rig, client: str, upstream: str) -> None:
    sdk, model = rig.user(client).sdk, rig.model(upstream)
    assert model in [m.id for m in sdk.models.list()]
    assert sdk.models.retrieve(model).id == model


@pytest.mark.parametrize("path", ["/v1/messages", "/messages", "/a/base/v1/messages"])
@pytest.mark.parametrize("rollout", ["", "/rollout/ro-1/attempt/at-1"])
def test_addresses(rig: Rig, path: str, rollout: str) -> None:
    body = {"model": "m-vllm", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    assert rig.post("anthropic", body, path=rollout + path).json()["type"] == "message"
