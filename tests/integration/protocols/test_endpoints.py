"""Calls beside chat, and every address that a client may be given."""

from typing import Any

import openai
import pytest

from integration.protocols.conftest import Rig
from integration.protocols.matrix import covers
from integration.protocols.users import USERS, Question


@covers("embeddings")
def test_embeddings(rig: Rig, client: str, upstream: str) -> None:
    if upstream == "anthropic":
        with pytest.raises(openai.NotFoundError, match="has no embeddings here; ask for one of"):
            rig.sdk().embeddings.create(model=rig.model(upstream), input="hi")
        return
    made = rig.sdk().embeddings.create(model=rig.model(upstream), input=["one", "two"])
    assert [len(item.embedding) for item in made.data] == [8, 8]
    assert made.usage.total_tokens > 0
    assert "return_token_ids" not in rig.seen(upstream)["last"]["body"]


@covers("completions")
@pytest.mark.parametrize("stream", [False, True])
def test_the_older_completions(rig: Rig, client: str, upstream: str, *, stream: bool) -> None:
    made: Any = rig.sdk().completions.create(model=rig.model(upstream), prompt="hi", stream=stream)
    text = "".join(chunk.choices[0].text for chunk in made) if stream else made.choices[0].text
    assert text.endswith("You said: hi")


@covers("base paths")
@pytest.mark.parametrize(
    "prefix", ["", "/rollout/ro-1/attempt/at-1", "/any/base", "/any/base/rollout/ro-1/attempt/at-1"]
)
def test_every_address(rig: Rig, client: str, upstream: str, prefix: str) -> None:
    user = USERS[client](rig.base + prefix, 0)
    assert user.ask(rig.model(upstream), Question("hi")).text.endswith("hi")


@pytest.mark.parametrize("prefix", ["/openai/deployments/m-openai", "/engines/m-openai", "/v1/engines/m-vllm"])
def test_addresses_that_name_the_model(rig: Rig, prefix: str) -> None:
    answer = rig.sdk(prefix).chat.completions.create(model="", messages=[{"role": "user", "content": "hi"}])
    assert (answer.choices[0].message.content or "").endswith("hi")
