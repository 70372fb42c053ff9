"""Keys of callers: in which headers, what is told without one, an edit while it runs, and where no key ever gets to."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from integration.gateway.conftest import PATH, Echo, Gateway, command, deployment, document, gateway, scripted
from procs import started

ALICE, BOB, WRONG = "key-of-alice-4711", "key-of-bob-0815", "key-of-nobody-1234"


def keys_dir(folder: Path, **keys: str) -> Path:
    made = folder / "keys"
    made.mkdir()
    for name, key in keys.items():
        (made / name).write_text(key)
    return made


@pytest.fixture(scope="module")
def here(_echo_server: Echo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("keys")
    made = keys_dir(folder, alice=f"{ALICE}\n", bob=BOB, nobody=" \n")
    told = document(deployment(_echo_server.port), require_api_key=True)
    with gateway(folder, told, "--keys-dir", str(made)) as running:
        yield running


def ask(here: Gateway, headers: dict[str, str], path: str = PATH) -> httpx2.Response:
    return here.post(
        {"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}, path, headers=headers
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"authorization": f"Bearer {ALICE}"}, 200, id="OpenAI's"),
        pytest.param({"authorization": f"bearer  {BOB}"}, 200, id="in lower case"),
        pytest.param({"x-api-key": BOB}, 200, id="Anthropic's"),
        pytest.param({"api-key": ALICE}, 200, id="Azure's"),
        pytest.param({"authorization": f"Bearer {WRONG}", "x-api-key": ALICE}, 200, id="one of two is known"),
        pytest.param({}, 401, id="none"),
        pytest.param({"authorization": f"Bearer {WRONG}"}, 401, id="not known"),
        pytest.param({"authorization": f"Basic {ALICE}"}, 401, id="another scheme"),
        pytest.param({"authorization": ALICE}, 401, id="no scheme"),
        pytest.param({"x-api-key": ALICE[:-1]}, 401, id="a part"),
        pytest.param({"x-api-key": f"{ALICE}\t{BOB}"}, 401, id="two in one"),
        pytest.param({"x-api-key": ""}, 401, id="empty, as a file is"),
    ],
)
def test_a_key_in_any_of_three_headers_opens(here: Gateway, headers: dict[str, str], status: int) -> None:
    for path in (PATH, "/v1/messages", "/openai/deployments/echo/chat/completions"):
        assert ask(here, headers, path).status_code == status


def test_without_a_key_only_health_is_answered(here: Gateway) -> None:
    def get(path: str) -> int:
        return httpx2.get(here.url + path).status_code

    before = here.metric("llmproxy_requests_total", status="401")
    assert get("/health") == 200
    assert [get(path) for path in ("/v1/models", "/v1/models/echo", "/nothing", PATH)] == [401] * 4
    assert here.metric("llmproxy_requests_total", model="", status="401") == before + 4
    assert here.admin("/readyz").status_code == 200


def ask_openai(here: Gateway, key: str) -> None:
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key=key, max_retries=0) as sdk:
        sdk.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])


def ask_azure(here: Gateway, key: str) -> None:
    with openai.AzureOpenAI(azure_endpoint=here.url, api_version="2024-06-01", api_key=key, max_retries=0) as sdk:
        sdk.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])


def ask_anthropic(here: Gateway, key: str) -> None:
    with anthropic.Anthropic(base_url=here.url, api_key=key, max_retries=0) as sdk:
        sdk.messages.create(model="echo", max_tokens=9, messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("call", [ask_openai, ask_azure, ask_anthropic])
def test_the_sdks_with_a_key_and_without(here: Gateway, call: Callable[[Gateway, str], None]) -> None:
    call(here, ALICE)
    with pytest.raises((openai.AuthenticationError, anthropic.AuthenticationError)) as caught:
        call(here, WRONG)
    assert isinstance(caught.value, openai.APIStatusError | anthropic.APIStatusError)
    text = caught.value.response.text
    error = json.loads(text)["error"]

    assert "the API key is not known here" in error["message"]
    assert error["type"] == ("authentication_error" if call is ask_anthropic else "invalid_request_error")
    assert error.get("code") == (None if call is ask_anthropic else "invalid_api_key")
    assert WRONG not in text


def test_an_edit_of_the_folder_counts_without_a_new_process(echo: Echo, tmp_path: Path) -> None:
    """As the kubelet does it: the names are links into a folder that is replaced as a whole."""
    made = keys_dir(tmp_path)
    (made / "..v1").mkdir()
    (made / "..v1" / "alice").write_text(ALICE)
    (made / "..data").symlink_to("..v1")
    (made / "alice").symlink_to("..data/alice")
    told = document(deployment(echo.port), require_api_key=True)
    with gateway(tmp_path, told, "--keys-dir", str(made)) as here:
        before = [ask(here, {"x-api-key": key}).status_code for key in (ALICE, BOB)]
        (made / "..v2").mkdir()
        (made / "..v2" / "bob").write_text(BOB)
        (made / "..next").symlink_to("..v2")
        (made / "..next").rename(made / "..data")
        (made / "bob").symlink_to("..data/bob")
        deadline = time.monotonic() + 30
        after: list[int] = []
        while after != [401, 200] and time.monotonic() < deadline:
            time.sleep(0.1)
            after = [ask(here, {"x-api-key": key}).status_code for key in (ALICE, BOB)]
        output = here.process.output
    assert (before, after) == ([200, 401], [401, 200])
    assert '"api_keys_loaded", "keys": 1' in output
    assert ALICE not in output + here.process.output
    assert BOB not in output + here.process.output


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_a_key_lets_nobody_in_and_says_so_once(echo: Echo, tmp_path: Path, *, there: bool) -> None:
    made = keys_dir(tmp_path) if there else tmp_path / "none"
    told = document(deployment(echo.port), require_api_key=True)
    with gateway(tmp_path, told, "--keys-dir", str(made)) as here:
        assert ask(here, {"x-api-key": ""}).status_code == 401
        assert ask(here, {"x-api-key": ALICE}).status_code == 401
        time.sleep(4.5)  # it has looked again
        assert here.process.output.count('"api_keys_error"') == 1


def test_a_document_that_asks_for_keys_and_no_folder_is_refused(tmp_path: Path) -> None:
    process = started(*command(tmp_path, document(deployment(1), require_api_key=True)))
    assert process.wait() == 2
    process.end()
    assert "require_api_key: this gateway was given no folder" in process.output


def test_without_the_field_a_folder_asks_nobody(echo: Echo, tmp_path: Path) -> None:
    told = document(deployment(echo.port))
    with gateway(tmp_path, told, "--keys-dir", str(keys_dir(tmp_path, alice=ALICE))) as here:
        assert ask(here, {}).status_code == 200


def test_the_upstream_gets_its_own_key_and_never_a_callers(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        connection.sendall(b"HTTP/1.1 500 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    with scripted(serve) as port:
        there = [
            {"name": name, "deployments": [deployment(port, f"{name}/0", model=f"{provider}/m", api_key_env="THEIRS")]}
            for name, provider in (("echo", "openai_like"), ("claude", "anthropic"))
        ]
        told = {**document(deployment(port)), "models": there, "require_api_key": True, "retries": {"max": 0}}
        flags = ("--keys-dir", str(keys_dir(tmp_path, alice=ALICE)))
        with gateway(tmp_path, told, *flags, env={"THEIRS": "the-providers-key"}) as here:
            for name in ("authorization", "x-api-key", "api-key"):
                value = f"Bearer {ALICE}" if name == "authorization" else ALICE
                for model in ("echo", "claude"):
                    for path in (PATH, "/v1/messages"):
                        body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
                        here.post(body, path, headers={name: value})
            metrics = here.admin("/metrics").text
        output = here.process.output
    assert len(seen) == 12
    assert all(b"the-providers-key" in request and ALICE.encode() not in request for request in seen)
    assert ALICE not in metrics + output
