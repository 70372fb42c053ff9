"""LiteLLM's and Agent-Lightning's configuration, setting by setting: works, ignored and said, or refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmproxy_api import SpecError, parse
from llmproxy_api.litellm import settings_table as table
from llmproxy_api.litellm.convert import PLACEHOLDER, Conversion, convert, is_loopback

VLLM: dict[str, Any] = {"model": "hosted_vllm/qwen", "api_base": "http://vllm:8000/v1"}


def config(params: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    return {"model_list": [{"model_name": "m", "litellm_params": {**VLLM, **(params or {})}}], **sections}


def made(raw: dict[str, Any], **more: Any) -> Conversion:
    result = convert(raw, name="p", **more)
    parse(result.proxy)
    return result


def refused(raw: dict[str, Any], **more: Any) -> str:
    with pytest.raises(SpecError) as caught:
        convert(raw, name="p", **more)
    return str(caught.value)


def deployment(raw: dict[str, Any], **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = made(raw, **more).proxy["spec"]["models"][0]["deployments"][0]
    return found


FULL = """
model_list:
- model_name: main
  litellm_params: {model: vllm/Qwen2.5-7B, api_base: "http://a:8000/v1/", rpm: 30, api_key: EMPTY}
- model_name: main
  litellm_params: {model: hosted_vllm/Qwen2.5-7B, api_base: "http://b:8000/v1", rpm: 60, temperature: 0.5}
- model_name: judge
  litellm_params: {model: gpt-4o-mini, api_key: os.environ/OPENAI_API_KEY, tpm: 1000, timeout: 2.5}
litellm_settings: {max_requests_per_minute: 120, rps: 10, num_retries: 3, drop_params: true, request_timeout: 60}
router_settings: {routing_strategy: simple-shuffle, optional_pre_call_checks: [enforce_model_rate_limits]}
"""


def test_a_whole_configuration() -> None:
    result = made(yaml.safe_load(FULL), store="http://store:4747/", environment={"OPENAI_API_KEY": "sk-1"})

    assert result.proxy["spec"] == {
        "models": [
            {
                "name": "main",
                "rateLimits": {"rpm": 90},
                "deployments": [
                    {
                        "model": "hosted_vllm/Qwen2.5-7B",
                        "apiBase": "http://a:8000/v1",
                        "weight": 30,
                        "apiKey": {"secretKeyRef": {"name": "p-keys", "key": "hosted-vllm"}},
                        "timeout": "60s",
                    },
                    {
                        "model": "hosted_vllm/Qwen2.5-7B",
                        "apiBase": "http://b:8000/v1",
                        "params": {"temperature": 0.5},
                        "weight": 60,
                        "timeout": "60s",
                    },
                ],
            },
            {
                "name": "judge",
                "rateLimits": {"tpm": 1000},
                "deployments": [
                    {
                        "model": "openai/gpt-4o-mini",
                        "timeout": "2500ms",
                        "apiKey": {"secretKeyRef": {"name": "p-keys", "key": "OPENAI_API_KEY"}},
                    }
                ],
            },
        ],
        "rateLimits": {"rpm": 120, "rps": 10},
        "retries": {"max": 3},
        "spans": {"store": "http://store:4747"},
    }
    secret = result.secret()
    assert secret is not None
    assert secret["stringData"] == {"hosted-vllm": "EMPTY", "OPENAI_API_KEY": "sk-1"}
    assert [r.path for r in result.warnings] == ["litellm_settings.drop_params", "model_list[0].litellm_params"]


@pytest.mark.parametrize(("name", "field"), table.LIMITS.items())
@pytest.mark.parametrize("section", ["litellm_settings", "router_settings", "general_settings"])
def test_a_limit_works_by_every_name_it_has(section: str, name: str, field: str) -> None:
    result = made(config(**{section: {name: 7}}))

    assert result.proxy["spec"]["rateLimits"] == {field: 7}
    assert result.warnings == ()


@pytest.mark.parametrize(("name", "field"), table.LIMITS.items())
def test_a_limit_of_a_model_works_by_every_name_it_has(name: str, field: str) -> None:
    result = made(config({name: 7.0}))

    assert result.proxy["spec"]["models"][0]["rateLimits"] == {field: 7}
    assert "params" not in result.proxy["spec"]["models"][0]["deployments"][0]


@pytest.mark.parametrize(
    ("sections", "retries"),
    [
        pytest.param({}, None, id="none said"),
        pytest.param({"litellm_settings": {"num_retries": 0}}, 0, id="none wanted"),
        pytest.param({"litellm_settings": {"num_retries": 3}, "router_settings": {"num_retries": 4}}, 4, id="router"),
        pytest.param({"litellm_settings": {"num_retries": 99}}, 10, id="more than there are"),
    ],
)
def test_retries(sections: dict[str, Any], retries: int | None) -> None:
    assert made(config(**sections)).proxy["spec"].get("retries", {}).get("max") == retries


IGNORED = [
    *(("litellm_settings", key) for key in table.LITELLM_SETTINGS),
    *(("router_settings", key) for key in table.ROUTER_SETTINGS),
    *(("general_settings", key) for key in table.GENERAL_SETTINGS),
]


@pytest.mark.parametrize(("section", "key"), IGNORED)
def test_an_ignored_setting_is_said_and_changes_nothing(section: str, key: str) -> None:
    result = made(config(**{section: {key: "secret-value"}}))

    assert [r.path for r in result.warnings] == [f"{section}.{key}"]
    assert "is ignored: " in result.warnings[0].message
    assert "secret-value" not in str(result.warnings)
    assert result.proxy == made(config()).proxy


@pytest.mark.parametrize("key", table.MODEL_IGNORED)
def test_an_ignored_setting_of_a_model_is_said_and_changes_nothing(key: str) -> None:
    result = made(config({key: 1}))

    assert [r.path for r in result.warnings] == [f"model_list[0].litellm_params.{key}"]
    assert result.proxy == made(config()).proxy


@pytest.mark.parametrize("section", ["litellm_settings", "router_settings", "general_settings"])
@pytest.mark.parametrize("key", table.ELSEWHERE)
def test_what_would_let_calls_through_is_refused(section: str, key: str) -> None:
    assert f"{section}.{key}: does not work here" in refused(config(**{section: {key: True}}))


@pytest.mark.parametrize("key", table.TOP_REFUSED)
def test_a_section_that_cannot_be_left_out_is_refused(key: str) -> None:
    assert f"{key}: " in refused({**config(), key: ["x"]})


@pytest.mark.parametrize("key", table.TOP)
def test_a_section_that_can_be_left_out_is_ignored(key: str) -> None:
    assert [r.path for r in made({**config(), key: {"x": 1}}).warnings] == [key]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(
            config(litellm_settings={"max_request_per_minute": 1}), "did you mean max_requests_per_minute", id="typo"
        ),
        pytest.param(config(litellm_settings={"rpm": 0}), "litellm_settings.rpm: must be a whole number", id="zero"),
        pytest.param(config(litellm_settings={"rpm": 1.5}), "litellm_settings.rpm: must be a whole number", id="part"),
        pytest.param(config(litellm_settings={"rpm": "many"}), "litellm_settings.rpm: must be a number", id="word"),
        pytest.param(config(litellm_settings={"rpm": True}), "litellm_settings.rpm: must be a number", id="truth"),
        pytest.param(
            config(litellm_settings={"rpm": 1, "max_requests_per_minute": 2}),
            "says another limit than",
            id="two limits",
        ),
        pytest.param(
            config(litellm_settings={"rpm": 1}, general_settings={"rpm": 2}), "another rpm", id="two limits, two places"
        ),
        pytest.param(config(litellm_settings=[1]), "litellm_settings: must be a mapping", id="a list"),
        pytest.param(config(max_requests_per_minute=1), "move it into litellm_settings", id="wrong place"),
        pytest.param({"model_list": []}, "must list at least one model", id="no models"),
        pytest.param({"model_list": [{"model_name": "m"}]}, "model_list[0]: must have", id="no params"),
        pytest.param(config({"model": "qwen"}), "has no provider", id="no provider"),
        pytest.param(config({"model": "agl-tinker/qwen"}), "runs in the trainer's process", id="in process"),
        pytest.param(config({"model": "vllm/qwen", "api_base": None}), "runs in the trainer's process", id="vllm lib"),
        pytest.param(config({"api_base": None}), "api_base: is required for hosted_vllm", id="no address"),
        pytest.param(config({"api_base": "http://localhost:8000/v1"}), "this machine's own address", id="loopback"),
        pytest.param(config({"api_base": "os.environ/NOT"}), "variable NOT is not set", id="no variable"),
        pytest.param(config({"extra_headers": {"a": "b"}}), "litellm_params.extra_headers", id="headers"),
        pytest.param(config({"mock_response": "x"}), "litellm_params.mock_response", id="mock"),
        pytest.param(config({"model": "openai/*"}), "must be provider/name of one model", id="wildcard"),
        pytest.param(config({"num_retries": 1, "timeout": -1}), "timeout: must be seconds", id="timeout"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(raw: dict[str, Any], says: str) -> None:
    assert says in refused(raw)


def test_all_reasons_are_told_at_once() -> None:
    text = refused(config({"api_base": "http://127.0.0.1/v1"}, litellm_settings={"rpm": 0}, guardrails=["x"]))

    assert all(part in text for part in ("api_base", "litellm_settings.rpm", "guardrails"))


def test_loopback_is_right_on_one_machine_and_a_store_there_is_not_in_a_cluster() -> None:
    local = config({"api_base": "http://localhost:8000/v1"})

    assert deployment(local, in_cluster=False, store="http://localhost:4747")["apiBase"] == "http://localhost:8000/v1"
    assert "store: is this machine's own address" in refused(config(), store="http://localhost:4747")


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://localhost:1", True),
        ("http://LocalHost.", True),
        ("http://a.localhost", True),
        ("http://127.9.9.9/v1", True),
        ("http://[::1]:80", True),
        ("http://0.0.0.0:4747", True),
        ("http://[::]:4747", True),
        ("vllm:8000", True),
        ("http://vllm:8000", False),
        ("http://10.0.0.1", False),
    ],
)
def test_which_addresses_are_this_machines_own(url: str, own: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert is_loopback(url) is own


def test_other_names_of_providers() -> None:
    assert deployment(config({"model": "lm_studio/x"}))["model"] == "openai_like/x"
    assert deployment(config({"model": "x", "custom_llm_provider": "hosted_vllm"}))["model"] == "hosted_vllm/x"
    assert deployment(config({"model": "hosted_vllm/org/x"}))["model"] == "hosted_vllm/org/x"
    assert deployment(config({"model": "gpt-4o", "api_base": None, "api_key": "k"}))["model"] == "openai/gpt-4o"
    assert deployment(config({"model": "claude-x", "api_base": None, "api_key": "k"}))["model"] == "anthropic/claude-x"


def test_token_ids_and_the_body() -> None:
    found = deployment(config({"extra_body": {"return_token_ids": False, "top_k": 5}, "top_p": 0.9}))

    assert (found["tokenIds"], found["params"]) == (False, {"top_p": 0.9, "top_k": 5})


def test_weights_that_are_parts_of_one() -> None:
    entries = [{"model_name": "m", "litellm_params": {**VLLM, "weight": w}} for w in (0.9, 0.1)]

    result = made({"model_list": entries})

    assert [d["weight"] for d in result.proxy["spec"]["models"][0]["deployments"]] == [900, 100]


def test_a_limit_of_some_servers_of_a_model_is_ignored_and_said() -> None:
    entries = [{"model_name": "m", "litellm_params": {**VLLM, **more}} for more in ({"rpm": 5}, {})]

    result = made({"model_list": entries})

    assert "rateLimits" not in result.proxy["spec"]["models"][0]
    assert "rpm stands at some servers of m only" in str(result.warnings[0])


def test_keys_are_told_apart_and_shown_nowhere() -> None:
    entries = [
        {"model_name": name, "litellm_params": {**VLLM, "api_key": key}}
        for name, key in (("a", "sk-1"), ("b", "sk-2"), ("c", "sk-1"))
    ]

    result = made({"model_list": entries}, namespace="train")
    secret, shown = result.secret(), result.secret(placeholders=True)

    assert secret is not None
    assert shown is not None
    assert secret["stringData"] == {"hosted-vllm": "sk-1", "hosted-vllm-2": "sk-2"}
    assert secret["metadata"] == {"name": "p-keys", "namespace": "train"}
    assert set(shown["stringData"].values()) == {PLACEHOLDER}
    assert "sk-" not in f"{result.proxy} {result!r} {shown}"


def test_a_variable_that_is_not_set_is_told_when_its_value_is_needed() -> None:
    result = made(config({"api_key": "os.environ/VLLM_KEY"}))

    assert result.secret(placeholders=True) is not None
    with pytest.raises(SpecError, match="variable VLLM_KEY is not set"):
        result.secret()


def test_variables_of_the_file_count() -> None:
    result = made(config({"api_key": "os.environ/K"}, environment_variables={"K": "sk-9"}))

    assert (result.secret() or {})["stringData"] == {"K": "sk-9"}


def test_the_page_for_trainers_says_what_becomes_of_every_setting() -> None:
    page = (Path(__file__).parents[4] / "docs/agent-lightning.md").read_text()
    tables = (
        *(table.LITELLM_SETTINGS, table.ROUTER_SETTINGS, table.GENERAL_SETTINGS, table.MODEL_IGNORED),
        *(table.TOP, table.TOP_REFUSED, table.ELSEWHERE),
    )
    said = [line for line in page.splitlines() if line.startswith("| ")]
    for settings in tables:
        for key, why in settings.items():
            assert any(f"`{key}`" in line.partition(" |")[0] and why in line for line in said), key
    for key in table.LIMITS:
        assert f"`{key}`" in page


@pytest.mark.parametrize(
    ("model", "kept"), [("gemini/gemini-2.5-flash", {"settings": {"drop_params": True}}), ("openai/gpt-4o", None)]
)
def test_fields_are_left_out_for_models_that_litellm_translates(model: str, kept: object) -> None:
    entry = {"model_name": "m", "litellm_params": {"model": model, "api_key": "sk-1"}}

    result = convert({"model_list": [entry], "litellm_settings": {"drop_params": True}}, name="p")

    assert result.proxy["spec"].get("litellm") == kept
    assert "litellm_settings.drop_params" in [r.path for r in result.warnings]


TWO = [{"model_name": name, "litellm_params": VLLM} for name in ("main", "spare", "third")]


def test_default_fallbacks_are_those_of_each_model_that_has_none() -> None:
    settings = {"default_fallbacks": ["third", "spare"], "fallbacks": [{"main": ["spare"]}]}

    result = made({"model_list": TWO, "litellm_settings": settings})

    assert {f["model"]: f["to"] for f in result.proxy["spec"]["fallbacks"]} == {
        "main": ["spare"],
        "spare": ["third"],
        "third": ["spare"],
    }
    assert result.warnings == ()
    wrong = {"model_list": TWO, "router_settings": {"default_fallbacks": ["nobody"]}}
    assert "router_settings.default_fallbacks: must list at most 8 models of model_list" in refused(wrong)


def test_a_model_is_called_by_its_other_names() -> None:
    settings = {"model_group_alias": {"gpt-4": "main", "hidden": {"model": "spare", "hidden": True}}}
    fallbacks = {"fallbacks": [{"main": ["third"]}]}

    result = made({"model_list": TWO, "router_settings": settings | fallbacks})

    models = {m["name"]: m.get("aliases", []) for m in result.proxy["spec"]["models"]}
    assert models == {"main": ["gpt-4"], "spare": ["hidden"], "third": []}
    assert [f["model"] for f in result.proxy["spec"]["fallbacks"]] == ["main"]
    assert result.warnings == ()


@pytest.mark.parametrize(
    ("aliases", "says"),
    [
        pytest.param({"a": "nobody"}, "maps a to nobody, which is no model", id="of nothing"),
        pytest.param({"main": "spare"}, "maps main, which is a model of model_list", id="taken"),
        pytest.param({"a b": "held"}, "must be names without * and spaces", id="with a space"),
        pytest.param({"a*": "held"}, "must be names without * and spaces", id="a prefix"),
        pytest.param(["a"], "must be a mapping", id="a list"),
    ],
)
def test_other_names_that_cannot_be_are_refused(aliases: object, says: str) -> None:
    held = {"model_name": "held", "litellm_params": {**VLLM, "rpm": 5}}

    assert says in refused({"model_list": [*TWO, held], "router_settings": {"model_group_alias": aliases}})


def test_a_stream_may_pause_as_long_as_stream_timeout_says() -> None:
    entries = [
        {"model_name": n, "litellm_params": {**VLLM, **more}} for n, more in (("a", {"stream_timeout": 5}), ("b", {}))
    ]

    result = made({"model_list": entries, "router_settings": {"stream_timeout": 30, "timeout": 600}})

    [a], [b] = (model["deployments"] for model in result.proxy["spec"]["models"])
    assert (a["timeouts"], a["timeout"]) == ({"idle": "5s"}, "600s")
    assert (b["timeouts"], b["timeout"]) == ({"idle": "30s"}, "600s")
    assert {r.path for r in result.warnings} == {
        "model_list[0].litellm_params.stream_timeout",
        "router_settings.stream_timeout",
    }
    assert all("timeouts.idle" in str(r) for r in result.warnings)


@pytest.mark.parametrize("more", [{"timeout": 5}, {}])
def test_a_stream_timeout_above_the_timeout_is_left_out(more: dict[str, Any]) -> None:
    entry = {"model_name": "a", "litellm_params": {**VLLM, "stream_timeout": 601, **more}}

    result = made({"model_list": [entry]})

    assert "timeouts" not in result.proxy["spec"]["models"][0]["deployments"][0]
    assert any("longer than the timeout" in str(r) and "model_list[0]" in r.path for r in result.warnings)


def test_fallbacks_are_taken_over_and_the_routers_win() -> None:
    result = made(
        {
            "model_list": TWO,
            "litellm_settings": {"fallbacks": [{"main": ["spare"]}, {"spare": ["main"]}]},
            "router_settings": {"fallbacks": [{"main": ["third", "spare"]}]},
        }
    )
    assert result.proxy["spec"]["fallbacks"] == [
        {"model": "main", "to": ["third", "spare"]},
        {"model": "spare", "to": ["main"]},
    ]
    assert not [remark for remark in result.warnings if "fallbacks" in str(remark)]


@pytest.mark.parametrize(
    "fallbacks",
    ["main", [{"main": ["nobody"]}], [{"*": ["nobody"]}], [{"main": ["main"]}], [{"main": [{"model": "x"}]}]],
)
def test_fallbacks_that_name_nobody_are_refused(fallbacks: object) -> None:
    assert "litellm_settings.fallbacks" in refused({"model_list": TWO, "litellm_settings": {"fallbacks": fallbacks}})


def entry(name: str = "m", **params: Any) -> dict[str, Any]:
    return {"model_list": [{"model_name": name, "litellm_params": params}]}


def only_deployment(result: Conversion) -> dict[str, Any]:
    [model] = result.proxy["spec"]["models"]
    [found] = model["deployments"]
    return dict(found)


@pytest.mark.parametrize(
    ("params", "variable"),
    [
        pytest.param({"model": "gpt-4o"}, "OPENAI_API_KEY", id="openai by its name"),
        pytest.param({"model": "claude-sonnet-4-5"}, "ANTHROPIC_API_KEY", id="anthropic by its name"),
        pytest.param({"model": "together_ai/m"}, "TOGETHERAI_API_KEY", id="a variable of another name"),
        pytest.param(
            {"model": "mistral/m", "api_base": "https://api.mistral.ai/v1"}, "MISTRAL_API_KEY", id="its own address"
        ),
        pytest.param(
            {"model": "azure/m", "api_base": "https://x.openai.azure.com"}, "AZURE_API_KEY", id="an address each"
        ),
    ],
)
def test_a_model_without_a_key_has_that_of_the_providers_usual_variable(params: dict[str, Any], variable: str) -> None:
    result = made(entry(**params), environment={variable: "sk-usual"})

    assert only_deployment(result)["apiKey"] == {"secretKeyRef": {"name": "p-keys", "key": variable}}
    assert (result.secret() or {})["stringData"] == {variable: "sk-usual"}
    with pytest.raises(SpecError, match=f"{variable} is not set"):
        made(entry(**params)).secret()


def test_a_providers_usual_key_is_not_sent_to_another_server() -> None:
    result = made(entry(model="openai/qwen", api_base="http://vllm:8000/v1"), environment={"OPENAI_API_KEY": "sk-1"})

    assert "apiKey" not in only_deployment(result)
    assert "OPENAI_API_KEY is only sent to api.openai.com" in str(result.warnings)


@pytest.mark.parametrize(("environment", "has_key"), [({}, False), ({"HOSTED_VLLM_API_KEY": "k"}, True)])
def test_a_server_of_ones_own_has_a_key_only_if_the_variable_is_set(
    environment: dict[str, str], *, has_key: bool
) -> None:
    assert ("apiKey" in only_deployment(made(entry(**VLLM), environment=environment))) is has_key


def test_a_master_key_is_required_of_callers_and_never_printed() -> None:
    result = made(config(general_settings={"master_key": "sk-1234"}), namespace="n")

    assert result.proxy["spec"]["access"] == {"apiKeys": {"secretRef": {"name": "p-callers"}}}
    [secret] = result.secrets()
    assert secret["metadata"] == {"name": "p-callers", "namespace": "n"}
    assert secret["stringData"] == {"master-key": "sk-1234"}
    assert "sk-1234" not in f"{result} {result.secrets(placeholders=True)}"


def test_the_placeholder_of_a_master_key_lets_nobody_in() -> None:
    result = made(config(general_settings={"master_key": "os.environ/MASTER"}))

    [secret] = result.secrets(placeholders=True)
    assert secret["stringData"] == {"master-key": ""}
    with pytest.raises(SpecError, match="MASTER is not set"):
        result.secrets()


def test_regions_and_projects_are_variables_of_the_translator() -> None:
    result = made(
        {
            "model_list": [
                {
                    "model_name": "h",
                    "litellm_params": {
                        "model": "bedrock/amazon.nova",
                        "aws_region_name": "us-east-1",
                        "aws_secret_access_key": "os.environ/MINE",
                    },
                },
                {
                    "model_name": "g",
                    "litellm_params": {
                        "model": "vertex_ai/gemini-2.5-pro",
                        "vertex_project": "p1",
                        "vertex_location": "os.environ/PLACE",
                        "vertex_credentials": '{"type": "service_account"}',
                    },
                },
            ]
        },
        environment={"MINE": "s3cret", "PLACE": "eu"},
    )

    env = {v["name"]: v.get("value") or v["secretKeyRef"]["key"] for v in result.proxy["spec"]["pod"]["env"]}
    assert env == {
        "AWS_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": "MINE",
        "VERTEXAI_PROJECT": "p1",
        "VERTEXAI_LOCATION": "PLACE",
        "VERTEXAI_CREDENTIALS": "VERTEXAI_CREDENTIALS",
    }
    assert (result.secret() or {})["stringData"] == {
        "MINE": "s3cret",
        "PLACE": "eu",
        "VERTEXAI_CREDENTIALS": '{"type": "service_account"}',
    }


def test_two_regions_are_an_error_as_pods_have_one_environment() -> None:
    models = [
        {"model_name": region, "litellm_params": {"model": "bedrock/m", "aws_region_name": region}}
        for region in ("us-east-1", "eu-west-1")
    ]

    assert "model_list[1].litellm_params: has another AWS_REGION" in refused({"model_list": models})


def test_a_translated_model_without_credentials_is_a_warning() -> None:
    result = made(entry(model="bedrock/m", aws_region_name="us-east-1"))

    assert "has no credentials: bedrock needs AWS_REGION and AWS_ACCESS_KEY_ID" in str(result.warnings)


def test_credentials_by_name_are_those_of_the_list_and_an_entrys_own_win() -> None:
    values = {"api_key": "os.environ/K", "api_base": "https://one.openai.azure.com", "api_version": "2024"}
    listed = {"credential_list": [{"credential_name": "c", "credential_values": values, "credential_info": {}}]}

    result = made({**entry(model="azure/gpt", litellm_credential_name="c"), **listed}, environment={"K": "sk-1"})

    assert only_deployment(result)["apiBase"] == "https://one.openai.azure.com"
    assert only_deployment(result)["apiKey"]["secretKeyRef"]["key"] == "K"
    own = made({**entry(model="azure/gpt", litellm_credential_name="c", api_base="https://two.azure.com"), **listed})
    assert only_deployment(own)["apiBase"] == "https://two.azure.com"
    assert "names d, which is not in credential_list" in refused(
        {**entry(model="azure/gpt", litellm_credential_name="d", api_base="https://x"), **listed}
    )


def test_no_fallbacks_of_one_model_stand_against_the_default_ones() -> None:
    settings = {"fallbacks": [{"main": ["spare"]}, {"third": []}], "default_fallbacks": ["main"]}

    result = made({"model_list": TWO, "router_settings": settings})

    assert result.proxy["spec"]["fallbacks"] == [{"model": "main", "to": ["spare"]}, {"model": "spare", "to": ["main"]}]
    star = made({"model_list": TWO, "router_settings": {"fallbacks": [{"*": ["main"]}]}})
    assert [f["model"] for f in star.proxy["spec"]["fallbacks"]] == ["spare", "third"]


def test_a_model_of_a_mode_that_is_not_served_is_left_out() -> None:
    image = {"model_name": "i", "litellm_params": {"model": "gpt-image-1"}, "model_info": {"mode": "image_generation"}}

    result = made({"model_list": [*TWO, image]})

    assert [model["name"] for model in result.proxy["spec"]["models"]] == ["main", "spare", "third"]
    assert "models of the mode image_generation are not served" in str(result.warnings)
    assert "model_list[0]: is left out: models of the mode image_generation" in refused({"model_list": [image]})


@pytest.mark.parametrize(
    ("params", "says"),
    [
        pytest.param({"guardrails": ["pii"]}, "would bypass them", id="guardrails"),
        pytest.param({"itpm": 5}, "use tpm", id="a limit that is not counted"),
        pytest.param({"prompt_id": "x"}, "prompts are not inserted", id="prompts"),
        pytest.param({"azure_ad_token": "t"}, "only API keys", id="another way to authenticate"),
        pytest.param({"extra_body": {"api_key": "sk"}}, "extra_body.api_key", id="a key in the body"),
    ],
)
def test_a_parameter_whose_loss_would_be_noticed_is_an_error(params: dict[str, Any], says: str) -> None:
    assert says in refused(config(params))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai/*", "openai/*"),
        ("*", "openai/gpt-4o"),
        ("claude-*", "anthropic/claude-*"),
        ("/data/m", "openai//data/m"),
    ],
)
def test_prefixes_of_names_and_paths_are_names(name: str, model: str) -> None:
    result = made(entry(name, model=model))

    assert result.proxy["spec"]["models"][0]["name"] == name
    assert only_deployment(result)["model"] == model


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        pytest.param("a*b", "openai/a*b", "model_list[0].model_name: must have", id="in the middle"),
        pytest.param("a b", "openai/a", "model_list[0].model_name: must have", id="a space"),
        pytest.param("gpt", "openai/*", "with * as the last character of model_name", id="of a fixed name"),
    ],
)
def test_patterns_that_are_no_prefixes_are_refused(name: str, model: str, says: str) -> None:
    assert says in refused(entry(name, model=model))
