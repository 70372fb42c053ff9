"""Requests to an API server and the meaning of its answers, against a small HTTP server that plays one."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web
from kubernetes.aio import client

from llmproxy_operator.cluster import ApiServer, connect
from llmproxy_operator.errors import ClusterError, ConflictError, LeaseLostError, RefusedError, UnavailableError
from llmproxy_operator.manifest import Ref

client_of = client.ApiClient
SERVICE = Ref("v1", "Service", "n", "p")
MANIFEST = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "p", "namespace": "n"}}


@dataclass
class Server:
    """Answers everything in one way, and remembers what it was asked."""

    status: int = 200
    body: Any = field(default_factory=dict)
    """A list is what one request after another is answered with."""
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        text = await request.text()
        self.asked.append((request.method, request.path_qs, request.headers.get("Content-Type", ""), text))
        answer = self.body.pop(0) if isinstance(self.body, list) else self.body
        body = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(status=self.status, text=body, headers=self.headers)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
def wrote() -> list[tuple[str, str]]:
    return []


@pytest.fixture
async def cluster(server: Server, wrote: list[tuple[str, str]]) -> AsyncIterator[ApiServer]:
    async with client.ApiClient(client.Configuration(host=server.url)) as api:
        yield ApiServer(api, lambda verb, kind: wrote.append((verb, kind)))


async def test_an_apply_says_who_it_is_and_whether_it_forces(
    server: Server, cluster: ApiServer, wrote: list[tuple[str, str]]
) -> None:
    server.status, server.body = 201, MANIFEST

    applied = await cluster.apply(MANIFEST, force=False)

    [(method, path, content_type, body)] = server.asked
    assert (method, content_type) == ("PATCH", "application/apply-patch+yaml")
    assert path == "/api/v1/namespaces/n/services/p?fieldManager=llmproxy-operator&force=false"
    assert json.loads(body) == MANIFEST
    assert (applied.live, applied.created) == (MANIFEST, True)
    assert wrote == [("PATCH", "Service")]


async def test_a_status_goes_to_its_subresource(server: Server, cluster: ApiServer) -> None:
    head = {"apiVersion": "llmproxy.dev/v1alpha1", "kind": "LLMProxy", "metadata": {"name": "p", "namespace": "n"}}

    await cluster.apply_status({**head, "status": {}})

    assert server.asked[0][1].startswith("/apis/llmproxy.dev/v1alpha1/namespaces/n/llmproxies/p/status?")


async def test_reading_is_no_write(server: Server, cluster: ApiServer, wrote: list[tuple[str, str]]) -> None:
    server.body = {"items": [{"metadata": {"name": "a"}}]}

    found = await cluster.list("v1", "ConfigMap", "n", {"a": "b", "c": "d"})

    assert found == ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}},)
    assert unquote(server.asked[0][1]) == "/api/v1/namespaces/n/configmaps?labelSelector=a=b,c=d&limit=500"
    assert wrote == []


async def test_no_write_is_sent_that_may_not_be_but_the_lease(server: Server, cluster: ApiServer) -> None:
    def never() -> None:
        raise LeaseLostError("somebody else leads")

    cluster.before_write = never
    server.body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "p", "namespace": "n"}}

    for write in (cluster.apply(MANIFEST, force=True), cluster.apply_status(MANIFEST), cluster.create(MANIFEST)):
        with pytest.raises(LeaseLostError):
            await write
    await cluster.get(Ref("v1", "Service", "n", "p"))
    await cluster.create({**MANIFEST, "apiVersion": "coordination.k8s.io/v1", "kind": "Lease"})

    assert [asked[0] for asked in server.asked] == ["GET", "POST"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        pytest.param(409, {"message": "conflict"}, ConflictError, id="changed in between"),
        pytest.param(403, {"message": "forbidden"}, RefusedError, id="no right"),
        pytest.param(422, {"message": "Invalid value"}, RefusedError, id="invalid"),
        pytest.param(400, {"message": "bad"}, RefusedError, id="not understood"),
        pytest.param(
            403,
            {"message": "x", "details": {"causes": [{"reason": "NamespaceTerminating"}]}},
            UnavailableError,
            id="the namespace is going",
        ),
        pytest.param(401, {"message": "x"}, UnavailableError, id="the token was just renewed"),
        pytest.param(404, {"message": "x"}, UnavailableError, id="gone"),
        pytest.param(429, {"message": "x"}, UnavailableError, id="too many requests"),
        pytest.param(500, {"message": "etcdserver: leader changed"}, UnavailableError, id="trouble"),
        pytest.param(502, "<html>bad gateway</html>", UnavailableError, id="no API server at all"),
        pytest.param(503, "[1]", UnavailableError, id="not what was expected"),
    ],
)
async def test_answers_are_told_apart_by_who_must_act(
    server: Server, cluster: ApiServer, status: int, body: Any, kind: type[ClusterError]
) -> None:
    server.status, server.body = status, body

    with pytest.raises(ClusterError) as caught:
        await cluster.apply(MANIFEST, force=True)

    assert type(caught.value) is kind
    assert caught.value.status == status
    assert "Service n/p" in str(caught.value)


async def test_what_is_not_there_is_no_error(server: Server, cluster: ApiServer) -> None:
    server.status = 404

    assert await cluster.get(SERVICE) is None
    await cluster.delete(SERVICE, uid="u")

    assert json.loads(server.asked[1][3])["preconditions"] == {"uid": "u"}


async def test_an_object_that_took_the_name_is_not_deleted(server: Server, cluster: ApiServer) -> None:
    server.status = 409

    await cluster.delete(SERVICE, uid="of the one before")  # 409: the precondition does not hold

    [(method, path, _, body)] = server.asked
    assert (method, path) == ("DELETE", "/api/v1/namespaces/n/services/p")
    assert json.loads(body)["preconditions"] == {"uid": "of the one before"}


@pytest.mark.parametrize("status", [403, 500])
async def test_a_deletion_that_fails_is_an_error(server: Server, cluster: ApiServer, status: int) -> None:
    server.status = status

    with pytest.raises(ClusterError) as caught:
        await cluster.delete(SERVICE, uid="u")

    assert caught.value.status == status


async def test_a_server_that_is_away_is_unavailable() -> None:
    async with client.ApiClient(client.Configuration(host="http://127.0.0.1:1")) as api:
        with pytest.raises(UnavailableError, match="no answer from the API server"):
            await ApiServer(api).get(SERVICE)


async def test_a_long_list_comes_in_parts(server: Server, cluster: ApiServer) -> None:
    server.body = [
        {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"metadata": {"name": "a"}}]},
        {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]},
    ]

    listed = await cluster.collect("v1", "ConfigMap", "", {"a": "b"})

    assert ([item["metadata"]["name"] for item in listed.items], listed.version) == (["a", "b"], "7")
    assert [unquote(asked[1]) for asked in server.asked] == [
        "/api/v1/configmaps?labelSelector=a=b&limit=500",
        "/api/v1/configmaps?labelSelector=a=b&limit=500&continue=more",
    ]


async def test_a_watch_yields_what_is_told_and_ends_with_the_error_that_is_told(
    server: Server, cluster: ApiServer
) -> None:
    expired = {"kind": "Status", "code": 410, "message": "too old resource version"}
    lines = [
        {"type": "ADDED", "object": {"metadata": {"name": "a" * 100_000}}},
        {"type": "ERROR", "object": expired},
    ]
    server.body = "".join(json.dumps(line) + "\n" for line in lines)
    watch = cluster.watch("v1", "ConfigMap", "n", {"a": "b"}, since="5", for_s=60)

    first = await anext(watch)
    with pytest.raises(UnavailableError, match="too old resource version") as caught:
        await anext(watch)

    assert (first.type, first.object["kind"], len(first.object["metadata"]["name"])) == ("ADDED", "ConfigMap", 100_000)
    assert caught.value.status == 410
    assert unquote(server.asked[0][1]) == (
        "/api/v1/namespaces/n/configmaps"
        "?watch=true&allowWatchBookmarks=true&resourceVersion=5&timeoutSeconds=60&labelSelector=a=b"
    )


async def test_when_to_ask_again_is_heard(server: Server, cluster: ApiServer) -> None:
    server.status, server.headers = 429, {"Retry-After": "7"}

    with pytest.raises(UnavailableError) as caught:
        await cluster.get(SERVICE)

    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"HTTPS_PROXY": "http://proxy:1"}, "http://proxy:1", id="one for all"),
        pytest.param({"HTTP_PROXY": "http://proxy:1"}, None, id="one for others"),
        pytest.param({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "10.0.0.1"}, None, id="not for this"),
    ],
)
async def test_the_environments_proxy_is_asked_about_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], expected: str | None
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    cluster = {"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    config = {
        "current-context": "c",
        "clusters": [cluster],
        "contexts": [context],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    seen: list[client.Configuration] = []

    def made(settings: client.Configuration) -> client.ApiClient:
        seen.append(settings)
        return client_of(settings)

    monkeypatch.setattr(client, "ApiClient", made)

    async with connect(lambda _verb, _kind: None):
        pass

    assert [(settings.proxy, settings.client_session_kwargs) for settings in seen] == [(expected, {"trust_env": False})]
