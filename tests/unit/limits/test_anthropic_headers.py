"""What an Anthropic client is told of its limits."""

from datetime import UTC, datetime

from llmproxy import contract
from llmproxy.gateway.limits import Limiter


def test_limits_in_anthropics_form() -> None:
    document = contract.parse(
        '{"version": 1, "proxy": {"name": "p", "namespace": "n"}, "rate_limits": {"rpm": 20, "tpm": 5000}, '
        '"models": [{"name": "m", "deployments": [{"id": "m/0", "model": "vllm/m", "api_base": "http://x"}]}]}'
    )
    limiter = Limiter(document)
    limiter.admit("m", 600)
    found = {name.decode(): value.decode() for name, value in limiter.anthropic_headers("m")}
    resets = [found.pop(f"anthropic-ratelimit-{kind}-reset") for kind in ("requests", "tokens")]
    assert found == {
        "anthropic-ratelimit-requests-limit": "20",
        "anthropic-ratelimit-requests-remaining": "19",
        "anthropic-ratelimit-tokens-limit": "5000",
        "anthropic-ratelimit-tokens-remaining": "4400",
    }
    for reset in resets:
        ahead = (datetime.fromisoformat(reset) - datetime.now(tz=UTC)).total_seconds()
        assert 30 < ahead < 63
