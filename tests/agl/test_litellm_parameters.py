"""The table of LiteLLM's parameters against the installed LiteLLM."""

import litellm
import pytest
from litellm.types.router import LiteLLM_Params
from litellm.types.utils import all_litellm_params

from llmproxy.providers import PROVIDERS, Way
from llmproxy_api import SpecError
from llmproxy_api.litellm import convert, parameters

pytestmark = [pytest.mark.agl, pytest.mark.filterwarnings("ignore")]  # LiteLLM's own
NAMES = sorted({*all_litellm_params, *LiteLLM_Params.model_fields})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["openai/gpt-5", "bedrock/amazon.nova"])
def test_a_parameter_of_litellm_never_becomes_a_field_of_a_request(name: str, model: str) -> None:
    params = {"model": model, "api_key": "sk-1"}
    params |= {name: "7"} if name not in params else {}
    entry = {"model_name": "m", "litellm_params": params}
    try:
        result = convert.convert({"model_list": [entry]}, name="p")
    except SpecError as exc:
        assert "model_list[0].litellm_params." in str(exc)  # noqa: PT017 - either outcome is right
        return

    [deployment] = result.proxy["spec"]["models"][0]["deployments"]
    assert "params" not in deployment


def test_the_list_of_litellm_is_the_long_one() -> None:
    assert len(NAMES) > 350
    assert {"cache_creation_input_token_cost", "base_model", "keepalive_seconds"} <= set(NAMES)


def test_keys_are_looked_for_where_litellm_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    different = {}
    checked = 0
    for name, row in PROVIDERS.items():
        variable = parameters.key_variable(name)
        monkeypatch.delenv(variable, raising=False)
        missing = litellm.validate_environment(f"{name}/some-model")["missing_keys"]
        keys = [key for key in missing if key.endswith("_API_KEY")]
        if row.way is Way.NATIVE and keys:
            checked += 1
            if variable not in keys:
                different[name] = keys

    assert different == {}
    assert checked > 20
