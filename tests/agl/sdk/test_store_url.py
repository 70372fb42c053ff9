"""Which address a store has, told from Agent-Lightning's own stores."""

import agentlightning as agl
import pytest

from llmproxy_agl.errors import ProxyError
from llmproxy_agl.store_url import store_address

pytestmark = [pytest.mark.agl, pytest.mark.filterwarnings("default")]
REAL = "http://lightning-store:4747"


def test_what_is_said_comes_first() -> None:
    assert store_address(agl.LightningStoreClient("http://other:1"), REAL + "/", in_cluster=True) == REAL
    assert store_address(None, REAL, in_cluster=True) == REAL


def test_behind_a_wrapped_client_is_the_real_one() -> None:
    client = agl.LightningStoreClient(REAL)

    assert store_address(client, None, in_cluster=True) == REAL
    assert store_address(agl.LightningStoreServer(client, host="localhost", port=4747), None, in_cluster=True) == REAL


def test_else_it_is_the_stores_own() -> None:
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), host="10.1.2.3", port=4747)

    assert store_address(server, None, in_cluster=True) == "http://10.1.2.3:4747"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_one_that_pods_cannot_reach_is_an_error_with_the_fix(host: str) -> None:
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), host=host, port=4747)

    assert store_address(server, None, in_cluster=False) == f"http://{host}:4747"
    with pytest.raises(ProxyError, match="AGL_SERVER_HOST"):
        store_address(server, None, in_cluster=True)


def test_one_without_an_address_is_an_error_everywhere() -> None:
    with pytest.raises(ProxyError, match="store_url="):
        store_address(agl.InMemoryLightningStore(), None, in_cluster=False)
    with pytest.raises(ValueError, match="Store is not set"):
        store_address(None, None, in_cluster=False)
