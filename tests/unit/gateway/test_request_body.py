"""What is read of a body, and what is changed in it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.gateway.adapters import anthropic, request_body
from llmproxy.gateway.adapters.request_body import OVERRIDES, parse_request, upstream_body
from llmproxy.gateway.errors import BadRequestError, TooLargeError
from unit.gateway.targets import target

MESSAGES = [{"role": "user", "content": "hi"}]
HERE = target()


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()


def sent(data: bytes, *, endpoint: str = "chat.completions", want_usage: bool = False, **deployment: Any) -> Any:
    where = target(**deployment) if deployment else HERE
    return json.loads(upstream_body(parse_request(data), where, endpoint, want_usage=want_usage))


def test_what_is_asked_for_is_read() -> None:
    asked = parse_request(body(stream=True, n=3, max_tokens=9, stream_options={"include_usage": True}))
    assert (asked.model, asked.stream, asked.choices, asked.max_tokens, asked.include_usage) == ("m", True, 3, 9, True)


def test_null_is_as_good_as_nothing() -> None:
    asked = parse_request(body(stream=None, n=None, max_tokens=None, stream_options=None))
    assert (asked.stream, asked.choices, asked.max_tokens, asked.include_usage) == (False, 1, None, False)


@pytest.mark.parametrize(("older", "newer"), [(9, 4), (4, 9), (9, None), (None, 9), (9, 0), (0, 9)])
def test_of_two_bounds_the_larger_is_charged_because_servers_differ_in_which_they_read(
    older: int | None, newer: int | None
) -> None:
    assert parse_request(body(max_tokens=older, max_completion_tokens=newer)).max_tokens == 9


@pytest.mark.parametrize("said", ["max_tokens", "max_completion_tokens"])
def test_a_bound_of_the_client_stands_alone(said: str) -> None:
    got = sent(body(**{said: 1}), params={"max_tokens": 7, "max_completion_tokens": 8, "top_p": 0.5})
    assert got == {"model": "there", "messages": MESSAGES, said: 1, "top_p": 0.5}
    unsaid = sent(body(), params={"max_tokens": 7, "max_completion_tokens": 8})
    assert (unsaid["max_tokens"], unsaid["max_completion_tokens"]) == (7, 8)


@pytest.mark.parametrize(("n", "best_of", "choices"), [(2, 5, 10), (5, 2, 10), (None, 3, 6), (2, None, 4)])
def test_answers_that_are_made_and_not_sent_count(n: int | None, best_of: int | None, choices: int) -> None:
    data = {"model": "m", "prompt": ["a", "b"], "n": n, "best_of": best_of}
    assert parse_request(json.dumps(data).encode()).choices == choices


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("text", 2), (["a", "b", "c"], 6), ([1, 2, 3], 2), ([[1, 2], [3]], 4), ([], 2), (None, 2)],
)
def test_each_prompt_of_a_completion_has_its_choices(prompt: object, choices: int) -> None:
    assert parse_request(json.dumps({"model": "m", "prompt": prompt, "n": 2}).encode()).choices == choices


def test_the_model_of_the_path_wins() -> None:
    assert parse_request(body(), "other").model == "other"
    assert parse_request(b"{}", "other").model == "other"


@pytest.mark.parametrize(
    ("data", "param"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"[]", None, id="a list"),
        pytest.param(b'{"model": "m"', None, id="cut off"),
        pytest.param(b'{"model": "m"} x', None, id="trailing text"),
        pytest.param(b'{"model": "m", "messages": [1,]}', None, id="broken inside"),
        pytest.param(b'{"model": "m", "x": "\xff"}', None, id="not UTF-8"),
        pytest.param(b"{}", "model", id="no model"),
        pytest.param(b'{"model": ""}', "model", id="empty model"),
        pytest.param(b'{"model": 1}', "model", id="model is a number"),
        pytest.param(b'{"model": null}', "model", id="model is null"),
        pytest.param(b'{"model": "m", "stream": "yes"}', "stream", id="stream is a text"),
        pytest.param(b'{"model": "m", "n": 1.5}', "n", id="half a choice"),
        pytest.param(b'{"model": "m", "n": -1}', "n", id="fewer than no choices"),
        pytest.param(b'{"model": "m", "max_tokens": "9"}', "max_tokens", id="bound is a text"),
        pytest.param(b'{"model": "m", "max_tokens": -9}', "max_tokens", id="negative bound"),
        pytest.param(b'{"model": "m", "max_completion_tokens": -9}', "max_completion_tokens", id="the newer one"),
        pytest.param(b'{"model": "m", "prompt": "", "best_of": "9"}', "best_of", id="best_of is a text"),
        pytest.param(b'{"model":"m","model":"n"}', "model", id="two models"),
        pytest.param(b'{"model": "m", "mod\\u0065l": "n"}', "model", id="two models, one in disguise"),
        pytest.param(b'{"model": "m", "a": 1, "a": 2}', "a", id="two of another"),
        pytest.param(b'{"model":"m","n":15,"n":20,"stream":true,"user":"me"}', "n", id="a pair as long as the blanks"),
        pytest.param(b'{ "model" :"m",\n"a":{"a":1},\t"a":2}', "a", id="two, oddly spaced"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_with_its_field(data: bytes, param: str | None) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_request(data)
    assert caught.value.status == 400
    assert caught.value.param == param


def test_deep_nesting_is_an_error_of_the_caller() -> None:
    deep = b'{"model": "m",  "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(BadRequestError):
        parse_request(deep)


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
reserved = {"model", "stream", "n", "max_tokens", "max_completion_tokens", "stream_options", "prompt", *OVERRIDES}
objects = st.dictionaries(texts.filter(lambda name: name not in reserved), values, max_size=6)
layouts = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])


@settings(deadline=None)
@given(objects, layouts, st.sampled_from(["ascii", "utf-8"]), st.integers(0, 6))
def test_whatever_else_is_in_a_body_arrives_as_it_came(
    fields: dict[str, Any], layout: tuple[str, str], encoding: str, place: int
) -> None:
    items = list(fields.items())
    items.insert(place, ("model", "m"))
    data = json.dumps(dict(items), separators=layout, ensure_ascii=encoding == "ascii").encode()
    assert sent(data) == {**fields, "model": "there"}


@settings(deadline=None)
@given(objects.filter(bool), layouts, st.data())
def test_a_doubled_field_is_never_taken(fields: dict[str, Any], layout: tuple[str, str], data: st.DataObject) -> None:
    comma, colon = layout
    name = data.draw(st.sampled_from(sorted(fields)))
    again = json.dumps(data.draw(values), separators=layout)
    whole = json.dumps({"model": "m", **fields}, separators=layout)
    doubled = f"{whole[:-1]}{comma}{json.dumps(name)}{colon}{again}}}".encode()
    with pytest.raises(BadRequestError) as refused:
        parse_request(doubled)
    assert refused.value.param == name


def test_params_are_defaults_that_the_client_overrides() -> None:
    got = sent(body(temperature=0.1), params={"temperature": 0.9, "top_p": 0.5})
    assert (got["temperature"], got["top_p"]) == (0.1, 0.5)


def test_overrides_of_retries_addresses_and_keys_never_leave() -> None:
    got = sent(body(**dict.fromkeys(OVERRIDES, "x")))
    assert got == {"model": "there", "messages": MESSAGES}


def test_no_layout_makes_room_for_a_doubled_field() -> None:
    # As many bytes more as Python's blanks would take, and a blank where Python puts the first.
    with pytest.raises(BadRequestError) as refused:
        parse_request(b'{"model": "m","c":3,"d":4,"b":2,"b":3}')
    assert refused.value.param == "b"


def test_nor_is_a_doubled_one_taken() -> None:
    with pytest.raises(BadRequestError):
        parse_request(b'{"model": "m", "timeout": 1, "timeout": 2}')


def test_token_ids_are_asked_for_where_the_deployment_says_so() -> None:
    chat = sent(body(), token_ids=True)
    assert (chat["return_token_ids"], chat["logprobs"]) == (True, True)
    old = sent(body(), endpoint="completions", token_ids=True)
    assert (old["return_token_ids"], old["logprobs"]) == (True, 1)
    assert "return_token_ids" not in sent(body(), endpoint="embeddings", token_ids=True)
    assert "return_token_ids" not in sent(body())
    mine = sent(body(logprobs=False, return_token_ids=False), token_ids=True)
    assert (mine["return_token_ids"], mine["logprobs"]) == (False, False)


def test_usage_is_asked_of_a_stream_only_and_only_where_it_may_be() -> None:
    assert sent(body(stream=True), want_usage=True)["stream_options"] == {"include_usage": True}
    kept = sent(body(stream=True, stream_options={"other": 1}), want_usage=True)
    assert kept["stream_options"] == {"other": 1, "include_usage": True}
    assert "stream_options" not in sent(body(stream=True), want_usage=False)
    assert "stream_options" not in sent(body(), want_usage=True)
    assert "stream_options" not in sent(body(stream=True), want_usage=True, model="mistral/m", api_base=None)


def tree_values(value: Any) -> int:
    """Return the commas and colons of a value as JSON, those in strings left out."""
    if isinstance(value, dict):
        return max(0, len(value) - 1) + len(value) + sum(map(tree_values, value.values()))
    if isinstance(value, list):
        return max(0, len(value) - 1) + sum(map(tree_values, value))
    return 0


@given(
    st.recursive(
        st.none() | st.integers() | st.text(alphabet='a,:"\\[{', max_size=8),
        lambda inner: (
            st.lists(inner, max_size=5) | st.dictionaries(st.text(alphabet=',:"\\', max_size=4), inner, max_size=5)
        ),
        max_leaves=30,
    ),
    st.booleans(),
)
def test_values_are_counted_outside_of_strings(value: Any, few: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    raw = json.dumps(value).encode()
    count = tree_values(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_body, "_FEW_QUOTES", 10_000 if few else 0)
        request_body.bound_values(raw, count)
        if count and len(raw) // 2 > count - 1:
            with pytest.raises(TooLargeError):
                request_body.bound_values(raw, count - 1)


@pytest.mark.parametrize("unit", [b",[]", b",{}", b",1.5", b',""', b',"\\""', b',"a": 1'])
def test_a_body_of_many_values_is_refused_before_it_is_decoded(unit: bytes) -> None:
    many = unit * (request_body.MAX_VALUES + 1)
    body = b'{"model":"m"' + many + b"}" if b":" in unit else b'{"model":"m", "x": [1' + many + b"]}"
    with pytest.raises(TooLargeError, match="more than 300000 values"):
        parse_request(body)


def test_a_long_text_is_one_value() -> None:
    text = 'a, b: "c"\\ ' * 200_000
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    assert parse_request(body).model == "m"


def test_a_body_has_a_bound_of_fields() -> None:
    fields = {"model": "m"} | {f"k{i}": 0 for i in range(request_body.MAX_FIELDS)}
    with pytest.raises(BadRequestError, match="more than 1000 fields"):
        parse_request(json.dumps(fields).encode())


def test_what_is_mapped_has_a_lower_bound() -> None:
    tools = b'{"model":"m","messages":[],"tools":[0' + b",{}" * (request_body.MAX_MAPPED_VALUES + 1) + b"]}"
    request = parse_request(tools)
    with pytest.raises(TooLargeError):
        anthropic.map_request(request, dict)


BLANKS = st.text(alphabet=" \t\r\n", max_size=2).map(str.encode)
NAMES = st.sampled_from([b'"model"', b'"\\u006dodel"', b'"a"', b'"\\"b"', b'"x y"'])
VALUES = st.sampled_from([b'"m"', b"1", b"12", b"[1, 2]", b'{"model": "n", "model": "o"}', b"null", b'"\\\\"'])


@given(st.lists(st.tuples(BLANKS, NAMES, BLANKS, BLANKS, VALUES, BLANKS), min_size=1, max_size=6))
def test_a_name_that_is_there_twice_is_found_whatever_is_between(parts: list[tuple[bytes, ...]]) -> None:
    body = b"{" + b",".join(b"%b%b%b:%b%b%b" % part for part in parts) + b"}"
    written = [json.loads(name) for _, name, *_ in parts]
    if len(set(written)) == len(written):
        assert set(request_body.read_fields(body)) == set(written)
    else:
        with pytest.raises(BadRequestError, match="is there twice"):
            request_body.read_fields(body)
