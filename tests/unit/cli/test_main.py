"""`llmproxy check` and `llmproxy render`, and how flags that are wrong are refused."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llmproxy_cli.__main__ import app
from procs import ROOT

GOOD = """\
apiVersion: llmproxy.dev/v1alpha1
kind: LLMProxy
metadata: {name: demo, namespace: team}
spec:
  models:
  - name: gpt
    deployments:
    - model: openai/gpt-4o-mini
      apiKey: {secretKeyRef: {name: openai, key: api-key}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    return path


def test_check_says_that_a_file_is_right(file: Path) -> None:
    done = CliRunner().invoke(app, ["check", "-f", str(file)])

    assert done.exit_code == 0
    assert "LLMProxy demo is valid; models gpt" in done.output


def test_check_names_every_field_that_is_wrong(file: Path) -> None:
    file.write_text(GOOD + "  rateLimits: {rpm: 0, rsp: 3}\n  replicas: [2]\n")

    done = CliRunner().invoke(app, ["check", "-f", str(file)])

    assert done.exit_code == 1
    assert "spec.rateLimits.rpm: " in done.output
    assert "spec.rateLimits.rsp: " in done.output
    assert "spec.replicas: " in done.output


def test_render_prints_what_the_operator_would_apply(file: Path) -> None:
    done = CliRunner().invoke(app, ["render", "-f", str(file)])

    objects = list(yaml.safe_load_all(done.output))
    assert done.exit_code == 0
    assert {"ConfigMap", "Deployment", "Service"} <= {o["kind"] for o in objects}
    assert {o["metadata"]["namespace"] for o in objects} == {"team"}
    assert all("ownerReferences" not in o["metadata"] for o in objects)


def test_render_takes_the_images_of_an_installation(file: Path) -> None:
    file.write_text(GOOD + "  replicas: 2\n  rateLimits: {rpm: 5}\n")

    done = CliRunner().invoke(app, ["render", "-f", str(file), "--image", "r/p:1", "--limits-store-image", "r/v:2"])

    pods = [o["spec"]["template"]["spec"] for o in yaml.safe_load_all(done.output) if o["kind"] == "Deployment"]
    assert {c["image"] for pod in pods for c in pod["containers"]} == {"r/p:1", "r/v:2"}


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--secret", "openai=X"], id="a secret without a key"),
        pytest.param(["--secret", "openai/k"], id="a secret without a variable"),
        pytest.param(["--connect-to", "echo:8000"], id="an address without another"),
    ],
)
def test_a_flag_of_another_form_is_refused_with_the_form(file: Path, flags: list[str]) -> None:
    done = CliRunner().invoke(app, ["local", "-f", str(file), *flags])

    assert done.exit_code == 2
    assert flags[0] in done.output


COMMANDS = {str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands}


def test_the_page_has_every_command() -> None:
    page = (ROOT / "docs/cli.md").read_text()

    assert set(re.findall(r"^\| `llmproxy (\w+)[^`]*` \|", page, re.MULTILINE)) == COMMANDS
    assert set(re.findall(r"^\$ (?:.*\| )?llmproxy (\w+)", page, re.MULTILINE)) == COMMANDS - {"local"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_teaches_by_examples(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})

    assert done.exit_code == 0
    examples = done.output.partition("Examples")[2].partition("Options")[0]
    assert re.findall(r"^ +(?:\S.*[|(] ?)?llmproxy (\w+)", examples, re.MULTILINE)
    assert set(re.findall(r"\bllmproxy (\w+)", examples)) == {command}


def test_check_refuses_an_alias_that_is_the_name_of_another_model(file: Path) -> None:
    extra = "  - {name: other, aliases: [gpt], deployments: [{model: hosted_vllm/x, apiBase: 'http://x/v1'}]}\n"
    file.write_text(GOOD + extra)

    done = CliRunner().invoke(app, ["check", "-f", str(file)])

    assert done.exit_code == 1
    assert "spec.models[1].aliases[0]: 'gpt' is the name of another model" in " ".join(done.output.split())


LIST = "apiVersion: v1\nkind: List\nitems:\n" + "".join(
    f"{'- ' if i == 0 else '  '}{x}\n" for i, x in enumerate(GOOD.splitlines())
)


def check(*arguments: str, stdin: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", *arguments], input=stdin)
    return done.exit_code, " ".join(done.output.split())


def test_check_takes_files_folders_and_several_documents(tmp_path: Path) -> None:
    folder = tmp_path / "deploy/sub"
    folder.mkdir(parents=True)
    (folder / "two.yaml").write_text(f"{GOOD}---\n{GOOD.replace('name: demo', 'name: second')}")
    (folder / "values.yaml").write_text("{{- template }} not YAML: [")
    (tmp_path / "bad.yaml").write_text(GOOD.replace("openai/gpt-4o-mini", "nobody/m").replace("demo", "third"))

    code, output = check(str(tmp_path / "deploy"))
    assert (code, output.count("is valid")) == (0, 2)
    code, output = check(str(tmp_path / "deploy"), "-f", str(tmp_path / "bad.yaml"))
    assert (code, output.count("is valid")) == (1, 2)
    assert f"{tmp_path / 'bad.yaml'}: spec.models[0].deployments[0].model" in output
    assert "LLMProxy second is valid" in check(str(folder / "two.yaml"), "--name", "second")[1]


@pytest.mark.parametrize("manifest", [GOOD, LIST, LIST.replace("kind: List", "kind: LLMProxyList")])
def test_check_reads_lists_and_pipes(manifest: str) -> None:
    assert check("-f", "-", stdin=manifest) == (0, "llmproxy: standard input: LLMProxy demo is valid; models gpt")
    bad = manifest.replace("openai/gpt-4o-mini", "nobody/m")
    assert check("-", stdin=bad)[0] == 1


@pytest.mark.parametrize("arguments", [[], ["nowhere.yaml"]])
def test_check_of_nothing_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    assert check(*arguments)[0] == 1
    assert "no object of kind LLMProxy" in check(str(tmp_path))[1]
