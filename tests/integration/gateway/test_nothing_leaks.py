"""Planted prompts, answers and keys, through gateway and shipper, and where none of them may be found again."""

import json
from pathlib import Path

import httpx2

import spanrig
from integration.gateway.conftest import PATH, Echo, deployment, document, gateway
from procs import free_port

PROMPT, ANSWER = "a-prompt-that-nobody-may-see", "an-answer-that-nobody-may-see"
CALLER, PROVIDER, TOKEN = "key-of-a-caller-4711", "key-of-a-provider-0815", "token-of-the-control-port"
PASSWORD = "password-of-the-store-of-limits"
SECRETS = (CALLER, PROVIDER, TOKEN, PASSWORD)


def test_no_prompt_and_no_key_is_in_logs_metrics_or_spans_of_tokens_only(echo: Echo, tmp_path: Path) -> None:
    keys, token = tmp_path / "keys", tmp_path / "token"
    keys.mkdir()
    (keys / "one").write_text(CALLER)
    token.write_text(TOKEN)
    with (
        spanrig.store_double() as store,
        spanrig.shipper(tmp_path, store, content="TokensOnly") as shipper,
    ):
        run = tmp_path / "gateway"
        run.mkdir()
        (run / "shipper.sock").symlink_to(tmp_path / "shipper.sock")
        told = document(
            deployment(echo.port, model="hosted_vllm/there", api_key_env="PROVIDER", token_ids=True),
            require_api_key=True,
            rate_limits={"rpm": 1000},
            shared_limits={"url_env": "STORE", "scope": "uid", "max_pods": 1},
            spans={"store": store.url, "content": "TokensOnly", "ack_wait_s": 10},
        )
        flags = ("--keys-dir", str(keys), "--control-port", "0", "--control-token-file", str(token))
        # Nobody listens at the store's address: each failure is told of, and counted.
        environment = {"PROVIDER": PROVIDER, "STORE": f"redis://limits:{PASSWORD}@127.0.0.1:{free_port()}/0"}
        with gateway(run, told, *flags, env=environment) as here:
            headers = {"x-api-key": CALLER}
            for path in (PATH, "/v1/messages"):
                for directive in ({"say": ANSWER}, {"say": ANSWER, "status": 400}, {"say": ANSWER, "status": 500}):
                    for stream in (False, True):
                        body = {
                            "model": "echo",
                            "max_tokens": 50,
                            "stream": stream,
                            "messages": [
                                {"role": "user", "content": PROMPT},
                                {"role": "assistant", "content": PROMPT},
                                {"role": "user", "content": json.dumps({"echo": directive})},
                            ],
                        }
                        here.post(body, f"/rollout/ro-1/attempt/at-1{path}", headers=headers)
                here.post({"model": "echo", "messages": [{"role": "user", "content": PROMPT}]}, path)  # no key
            here.post(f'{{"model": "{PROMPT}'.encode(), headers=headers)
            here.control("POST", "/pause", f"{TOKEN}x")
            here.control("POST", "/pause", TOKEN)
            here.post({"model": "echo", "messages": [{"role": "user", "content": PROMPT}]}, headers=headers)
            told_of = "".join(here.admin(path).text for path in ("/metrics", "/limits", "/readyz"))
        assert shipper.process is not None
        spans = json.dumps(store.spans("ro-1"))
        said = here.process.output + shipper.process.output
    for place, text in {"logs": said, "metrics": told_of, "spans": spans}.items():
        for planted in (PROMPT, ANSWER, *SECRETS):
            assert planted not in text, (place, planted)
    # They were there to be found: spans were made, problems were logged.
    assert spans.count("llmproxy.call") >= 4
    assert "token_ids" in spans
    assert "limits_store_unreachable" in here.process.output


def test_health_costs_no_completion(echo: Echo, tmp_path: Path) -> None:
    echo.reset()
    with gateway(tmp_path, document(deployment(echo.port))) as here:
        for path in ("/health", "/healthz", "/health/liveness", "/health/liveliness", "/health/readiness"):
            assert here.post({}, path).status_code == 405
            assert httpx2.get(here.url + path, timeout=10).json() == {"status": "ok"}
        for path in ("/healthz", "/readyz", "/limits", "/metrics"):
            assert here.admin(path).status_code == 200
    assert echo.stats()["calls"] == 0
