"""`llmproxy convert`: what a file of LiteLLM or Agent-Lightning becomes, and what is said of the rest, line by line."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from llmproxy_api import parse
from llmproxy_cli.__main__ import app
from llmproxy_cli.convert import line_of

CONFIG = """\
model_list:
- model_name: gpt
  litellm_params:
    model: openai/gpt-4o-mini
    api_key: sk-planted-0815
    rpm: 60
- model_name: qwen
  litellm_params:
    model: hosted_vllm/Qwen2.5-7B
    api_base: http://vllm:8000/v1
litellm_settings:
  num_retries: 3
  max_requests_per_minute: 100
  set_verbose: true
"""
AGENT_LIGHTNING = """\
model_list:
- {model_name: qwen, litellm_params: {model: hosted_vllm/Qwen2.5-7B, api_base: "http://vllm:8000/v1"}}
litellm_config:
  litellm_settings:
    num_retries: 1
    set_verbose: true
"""


def convert(tmp_path: Path, text: str, *flags: str) -> Result:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return CliRunner().invoke(app, ["convert", "-f", str(file), "--name", "demo", *flags])


def test_a_config_of_litellm_becomes_a_proxy_and_a_secret_to_fill_in(tmp_path: Path) -> None:
    done = convert(tmp_path, CONFIG, "-n", "team", "--store", "http://store:4747")

    assert done.exit_code == 0, done.output
    proxy, secret = yaml.safe_load_all(done.stdout)
    spec = parse(proxy).spec
    assert [model.name for model in spec.models] == ["gpt", "qwen"]
    assert spec.models[0].rate_limits is not None
    assert spec.models[0].rate_limits.rpm == 60
    assert spec.rate_limits is not None
    assert spec.rate_limits.rpm == 100
    assert spec.retries is not None
    assert spec.retries.max == 3
    assert spec.spans is not None
    assert spec.spans.store == "http://store:4747"
    assert proxy["metadata"] == {"name": "demo", "namespace": "team"}
    assert secret["metadata"] == {"name": "demo-keys", "namespace": "team"}
    assert set(secret["stringData"].values()) == {"REPLACE-ME"}
    assert "planted" not in done.output


def test_what_is_not_carried_over_is_said_with_its_line_on_standard_error(tmp_path: Path) -> None:
    done = convert(tmp_path, CONFIG)

    assert "config.yaml:14: litellm_settings.set_verbose: is ignored" in done.stderr
    assert "ignored" not in done.stdout


def test_settings_of_agent_lightning_stand_in_litellm_config(tmp_path: Path) -> None:
    done = convert(tmp_path, AGENT_LIGHTNING)

    [proxy] = yaml.safe_load_all(done.stdout)
    assert proxy["spec"]["retries"] == {"max": 1}
    assert "config.yaml:6: litellm_settings.set_verbose" in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("model_list: []\n", "config.yaml:1: model_list: must list at least one model", id="no models"),
        pytest.param(
            CONFIG.replace("hosted_vllm/", "claude_like/"), "config.yaml:9: model_list[1]", id="an unknown provider"
        ),
        pytest.param(
            CONFIG.replace("http://vllm", "http://localhost"), "config.yaml:10: ", id="an address of this machine"
        ),
        pytest.param("- a\n", "must be a mapping", id="a list"),
        pytest.param("a: [\n", "config.yaml:2: not YAML", id="no YAML"),
        pytest.param("model_list: []\nlitellm_config: {model_list: []}\n", "is both at the top", id="twice"),
    ],
)
def test_what_stands_against_it_is_said_with_its_line_and_nothing_is_made(tmp_path: Path, text: str, says: str) -> None:
    done = convert(tmp_path, text)

    assert done.exit_code == 1
    assert says in done.stderr
    assert done.stdout == ""
    assert "planted" not in done.output


def test_for_local_mode_addresses_of_this_machine_are_right(tmp_path: Path) -> None:
    done = convert(tmp_path, CONFIG.replace("http://vllm", "http://localhost"), "--for-local")

    assert done.exit_code == 0


def test_the_line_of_a_step_that_is_not_there_is_that_of_the_one_before() -> None:
    assert line_of("model_list[1].litellm_params.nowhere", CONFIG) == 8
    assert line_of("nowhere", CONFIG) is None


def indented(text: str, by: int) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in text.splitlines())


def test_a_configmap_is_read_with_its_own_lines(tmp_path: Path) -> None:
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  config.yaml: |\n{indented(CONFIG, 4)}"

    done = convert(tmp_path, text)

    assert done.exit_code == 0
    proxy, secret = yaml.safe_load_all(done.stdout)
    assert [model["name"] for model in proxy["spec"]["models"]] == ["gpt", "qwen"]
    assert "sk-planted-0815" not in done.output
    line = 1 + text.splitlines().index("      set_verbose: true")
    assert f"config.yaml:{line}: litellm_settings.set_verbose" in done.stderr
    assert secret["kind"] == "Secret"


@pytest.mark.parametrize("parent", ["", "litellm-helm:\n"])
def test_values_of_litellms_chart_keep_its_master_key(tmp_path: Path, parent: str) -> None:
    values = f"replicaCount: 2\nproxy_config:\n{indented(CONFIG, 2)}"
    text = parent + (indented(values, 2) if parent else values)

    done = convert(tmp_path, text)

    assert done.exit_code == 0
    proxy, _, callers = yaml.safe_load_all(done.stdout)
    assert proxy["spec"]["access"] == {"apiKeys": {"secretRef": {"name": callers["metadata"]["name"]}}}
    assert callers["stringData"] == {"master-key": ""}
    line = 1 + next(i for i, found in enumerate(text.splitlines()) if "set_verbose" in found)
    assert f"config.yaml:{line}: litellm_settings.set_verbose" in done.stderr
    without = convert(tmp_path, text.replace("litellm_settings:", "general_settings: {master_key: }\n"
                                             + (" " * (4 if parent else 2)) + "litellm_settings:"))  # fmt: skip
    assert "access" not in without.stdout


def test_convert_reads_a_pipe() -> None:
    done = CliRunner().invoke(app, ["convert", "-f", "-", "--name", "p"], input=CONFIG)

    assert done.exit_code == 0
    assert "standard input:14: litellm_settings.set_verbose" in done.stderr
