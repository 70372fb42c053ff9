"""Plan of a local pod: keys, hash, shared limits."""

import pytest

from bundles import PROXY, SECRETS, read
from llmproxy_cli.local import plan
from llmproxy_cli.manifests import FileError


def test_keys_go_to_the_part_that_calls_with_them() -> None:
    made = plan.build_plan(read(PROXY + SECRETS), {}, {}, "proxy.yaml")

    assert list(made.gateway_keys.values()) == ["sk-plain"]
    assert list(made.translator_keys.values()) == ["AIza"]
    variables = {d.api_key_env for m in made.document.models for d in m.deployments}
    assert variables == {None, *made.gateway_keys, *made.translator_keys}
    assert made.translated == ("gemini",)
    assert made.document.rate_limits.rpm == 5


def test_a_secret_that_is_not_in_the_file_comes_from_the_environment() -> None:
    environment = {"OPENAI_API_KEY": "sk-default", "MINE": "AIza-mine"}

    made = plan.build_plan(read(PROXY), {("google", "key"): "MINE"}, environment, "proxy.yaml")

    assert list(made.gateway_keys.values()) == ["sk-default"]
    assert list(made.translator_keys.values()) == ["AIza-mine"]


def test_a_secret_that_is_nowhere_is_named_with_every_way_out() -> None:
    with pytest.raises(FileError) as refused:
        plan.build_plan(read(PROXY), {}, {}, "proxy.yaml")

    google, openai = str(refused.value).splitlines()
    assert "spec.models[1].deployments[0].apiKey" in openai
    assert "OPENAI_API_KEY" in openai
    assert "--secret openai/api-key=VARIABLE" in openai
    assert "GOOGLE_KEY" in google


def test_a_flag_that_names_a_secret_nobody_asks_for_is_an_error() -> None:
    with pytest.raises(FileError, match=r"--secret nope/x: .* it names google/key, openai/api-key"):
        plan.build_plan(read(PROXY + SECRETS), {("nope", "x"): "X"}, {}, "proxy.yaml")


def test_a_variable_that_a_flag_names_and_is_not_set_is_an_error_even_with_a_secret_in_the_file() -> None:
    with pytest.raises(FileError, match="environment variable X of --secret openai/api-key is not set"):
        plan.build_plan(read(PROXY + SECRETS), {("openai", "api-key"): "X"}, {}, "proxy.yaml")


def test_the_hash_follows_documents_and_secrets_and_nothing_else() -> None:
    def hash_of(text: str) -> str:
        return plan.build_plan(read(text), {}, {}, "proxy.yaml").hash

    same = hash_of(PROXY + SECRETS)

    assert hash_of("# a comment\n" + PROXY + SECRETS) == same
    assert hash_of((PROXY + SECRETS).replace("rpm: 5", "rpm: 6")) != same
    assert hash_of((PROXY + SECRETS).replace("sk-plain", "sk-new")) != same


MANY = PROXY.replace("rateLimits: {rpm: 5}", "replicas: 3\n  rateLimits: {rpm: 5}")


IN_REDIS = PROXY.replace("rpm: 5}", "rpm: 5, shared: {mode: Redis, url: {secretKeyRef: {name: redis, key: url}}}}")


KEYS = {"OPENAI_API_KEY": "sk", "GOOGLE_KEY": "AIza"}


def test_one_gateway_counts_by_itself_whatever_is_said_of_replicas() -> None:
    made = plan.build_plan(read(MANY), {}, KEYS, "proxy.yaml")

    assert made.document.shared_limits is None
    assert made.document.rate_limits.rpm == 5
    assert "one gateway runs here" in made.notes[0]
    assert plan.build_plan(read(PROXY), {}, KEYS, "proxy.yaml").notes == ()


def test_a_store_of_ones_own_is_used_if_its_address_is_given() -> None:
    made = plan.build_plan(read(IN_REDIS), {}, {**KEYS, "REDIS_URL": "redis://127.0.0.1:6379"}, "proxy.yaml")

    assert made.document.shared_limits is not None
    assert made.gateway_keys[made.document.shared_limits.url_env] == "redis://127.0.0.1:6379"
    assert made.notes == ()


def test_without_its_address_the_gateway_counts_alone_and_says_so() -> None:
    made = plan.build_plan(read(IN_REDIS), {}, KEYS, "proxy.yaml")

    assert made.document.shared_limits is None
    assert len(made.notes) == 1
    assert "redis/url" in made.notes[0]
    with pytest.raises(FileError, match=r"shared: the environment variable MINE of --secret"):
        plan.build_plan(read(IN_REDIS), {("redis", "url"): "MINE"}, KEYS, "proxy.yaml")


IN_A_CLOUD = """\
apiVersion: llmproxy.dev/v1alpha1
kind: LLMProxy
metadata: {name: demo}
spec:
  models: [{name: m, deployments: [{model: bedrock/anthropic.claude}]}]
  pod: {env: [{name: AWS_REGION, value: eu}, {name: AWS_SECRET_ACCESS_KEY, secretKeyRef: {name: aws, key: secret}}]}
"""


def test_the_translator_is_told_of_accounts_by_its_environment() -> None:
    made = plan.build_plan(read(IN_A_CLOUD), {}, {"AWS_SECRET": "key"}, "proxy.yaml")

    assert made.translator_keys == {"AWS_REGION": "eu", "AWS_SECRET_ACCESS_KEY": "key"}
    assert made.gateway_keys == {}
    with pytest.raises(FileError, match=r"spec.pod.env\[1\].secretKeyRef: Secret 'aws'"):
        plan.build_plan(read(IN_A_CLOUD), {}, {}, "proxy.yaml")
