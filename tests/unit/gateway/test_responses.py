"""What of a Responses call the gateway reads and changes."""

import json

import pytest

from llmproxy.gateway.adapters.responses import RESPONSES_DIALECT, ResponsesForward
from llmproxy.gateway.errors import BadRequestError
from unit.gateway.targets import target


def test_the_bound_of_the_answer_is_max_output_tokens() -> None:
    asked = RESPONSES_DIALECT.parse(b'{"model":"m","input":"hi","max_output_tokens":7,"max_tokens":9}', "")
    assert (asked.max_tokens, asked.choices, asked.stream) == (7, 1, False)
    with pytest.raises(BadRequestError, match="max_output_tokens"):
        RESPONSES_DIALECT.parse(b'{"model":"m","input":"hi","max_output_tokens":-1}', "")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_params_of_chat_are_said_in_this_apis_words_and_the_client_wins(name: str) -> None:
    there = target(model="hosted_vllm/there", params={name: 5, "temperature": 0.5}, token_ids=True)
    for more, limit in (("", 5), (',"max_output_tokens":2', 2)):
        asked = RESPONSES_DIALECT.parse(f'{{"model":"m","input":"hi","stream":true{more}}}'.encode(), "")
        sent = json.loads(ResponsesForward("responses").request_body(asked, there, want_usage=True))
        assert sent == {
            "model": "there", "input": "hi", "stream": True, "max_output_tokens": limit, "temperature": 0.5
        }  # fmt: skip


def test_a_background_response_is_refused() -> None:
    with pytest.raises(BadRequestError, match="cannot be fetched later"):
        RESPONSES_DIALECT.parse(b'{"model":"m","input":"hi","background":true}', "")
    assert RESPONSES_DIALECT.parse(b'{"model":"m","input":"hi","background":false}', "").model == "m"
