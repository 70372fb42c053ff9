"""When a resource is written, and what of the others. With a real store and runner: tests/agl/test_resource.py."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmproxy.contract import Deployment, Model, Resource
from llmproxy.shipper.delivery.http_client import ReceiverError
from llmproxy.shipper.delivery.lightning_store import LightningStore
from llmproxy.shipper.delivery.registration import CHECK_S, Registration, proxy_llm, with_proxy_llm

Json = dict[str, Any]
HERE = Resource(name="main_llm", endpoint="http://phi.team.svc:4000")


def models(*names: str) -> tuple[Model, ...]:
    return tuple(Model(name=n, deployments=(Deployment(id=f"{n}/0", model="hosted_vllm/x"),)) for n in names)


OURS = proxy_llm(HERE, models("phi", "other"))
PROMPT = {"resource_type": "prompt_template", "template": "x"}


def test_it_is_the_first_model_at_the_address_without_v1() -> None:
    assert (OURS["resource_type"], OURS["endpoint"], OURS["model"]) == ("proxy_llm", "http://phi.team.svc:4000", "phi")


@pytest.mark.parametrize("registered_before", [False, True])
@pytest.mark.parametrize(
    ("latest", "written", "only_at_first"),
    [
        ({}, {"main_llm": OURS}, False),
        ({"prompt": PROMPT}, {"prompt": PROMPT, "main_llm": OURS}, False),
        ({"main_llm": OURS}, None, False),
        ({"main_llm": {**OURS, "later": 1}}, None, False),
        ({"main_llm": {**OURS, "model": "old"}}, {"main_llm": OURS}, True),
        ({"main_llm": PROMPT, "a": PROMPT}, {"main_llm": OURS, "a": PROMPT}, True),
    ],
    ids=["nothing", "others", "the same", "the same and more", "another model", "of another kind"],
)
def test_only_what_is_not_as_it_should_be_is_written(
    latest: Json, written: Json | None, *, only_at_first: bool, registered_before: bool
) -> None:
    expected = None if only_at_first and registered_before else written
    assert with_proxy_llm(latest, "main_llm", OURS, registered_before=registered_before) == expected


class Shelf(LightningStore):
    """A store of resources."""

    def __init__(self) -> None:
        super().__init__("http://nowhere")
        self.latest: Json = {}
        self.written = 0
        self.down = False

    async def resources(self) -> Json:
        await asyncio.sleep(0)
        if self.down:
            raise ReceiverError("connect")
        return dict(self.latest)

    async def add_resources(self, resources: Json) -> None:
        await asyncio.sleep(0)
        self.written += 1
        self.latest = resources


async def test_it_waits_for_a_store_and_writes_once(tmp_path: Path) -> None:
    store = Shelf()
    store.down = True
    ours = Registration(store, HERE, models("phi"), tmp_path / "registered")
    assert await ours.check() < 1.0
    store.down = False
    assert CHECK_S * 0.8 <= await ours.check() <= CHECK_S
    await ours.check()
    assert (store.written, store.latest["main_llm"]["model"]) == (1, "phi")


async def test_a_store_that_was_started_anew_is_told_again(tmp_path: Path) -> None:
    store = Shelf()
    ours = Registration(store, HERE, models("phi"), tmp_path / "registered")
    await ours.check()
    store.latest = {"prompt": PROMPT}
    await ours.check()
    assert set(store.latest) == {"prompt", "main_llm"}


async def test_a_pod_that_ends_does_not_undo_what_its_successor_said(tmp_path: Path) -> None:
    store = Shelf()
    await Registration(store, HERE, models("old"), tmp_path / "old").check()
    await Registration(store, HERE, models("new"), tmp_path / "new").check()
    assert store.latest["main_llm"]["model"] == "new"
    await Registration(store, HERE, models("old"), tmp_path / "old").check()  # its shipper was started again
    assert (store.latest["main_llm"]["model"], store.written) == ("new", 2)


async def test_pods_at_the_same_time_say_the_same(tmp_path: Path) -> None:
    store = Shelf()
    store.latest = {"prompt": PROMPT}
    await asyncio.gather(*(Registration(store, HERE, models("m"), tmp_path / str(i)).check() for i in range(5)))
    assert store.latest == {"prompt": PROMPT, "main_llm": proxy_llm(HERE, models("m"))}
    await asyncio.gather(*(Registration(store, HERE, models("m"), tmp_path / f"{i}b").check() for i in range(5)))
    assert store.written <= 5
