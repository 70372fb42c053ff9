"""`llmproxy`: reads the command line and says what came of it."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from llmproxy_cli import converted, manifests
from llmproxy_cli import local as running
from llmproxy_cli.manifests import FileError, SecretRef
from llmproxy_cli.pod import PodError
from llmproxy_cli.rendered import render_text

app = typer.Typer(
    name="llmproxy",
    help="Run, check and look at LLMProxy resources without a cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[
    Path, typer.Option("--file", "-f", help="Manifests: an LLMProxy, and Secrets if you like.", show_default=False)
]
Name = Annotated[str | None, typer.Option("--name", help="Which LLMProxy, if the file has several.")]
ConnectTo = Annotated[
    list[str] | None,
    typer.Option(
        "--connect-to",
        metavar="HOST:PORT=HOST:PORT",
        help="What a cluster calls by the first address is at the second here.",
    ),
]
SecretFlags = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="NAME/KEY=VARIABLE", help="Environment variable that holds a Secret's key."),
]


@app.callback()
def _main() -> None:
    """Keep `llmproxy COMMAND`, however many commands there are."""


@app.command()
def local(  # noqa: PLR0913, PLR0917 - a flag of the command line each
    file: File,
    port: Annotated[int, typer.Option(help="Where to serve.", min=0, max=65535)] = 4000,
    host: Annotated[str, typer.Option(help="Address to listen on; it asks no one for a key.")] = "127.0.0.1",
    name: Name = None,
    secret: SecretFlags = None,
    connect_to: ConnectTo = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder for sockets and the spool; default: one that is removed at the end.")
    ] = None,
    translator_python: Annotated[
        str, typer.Option(help="Python of an environment with LiteLLM, for models that need translation.")
    ] = sys.executable,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every line that the parts print.")] = False,
) -> None:
    """Run an LLMProxy here: the same file and behaviour as in a cluster, processes in place of pods.

    The file is watched: an edit rolls to a new gateway on the same port, which takes the limits' counters over,
    and no request is refused. Ctrl-C finishes the calls in flight and delivers their spans.

    [bold]Examples[/bold]

      llmproxy local -f proxy.yaml
      llmproxy local -f proxy.yaml --port 4001 --secret openai/api-key=OPENAI_API_KEY
      llmproxy local -f proxy.yaml --connect-to vllm:8000=127.0.0.1:8000
      llmproxy local -f gemini.yaml --translator-python ~/litellm/bin/python
    """
    options = running.Options(
        file=file,
        name=name,
        host=host,
        port=port,
        run_dir=run_dir,
        translator_python=translator_python,
        secrets=_secrets(secret),
        connect_to=_pairs(connect_to, "--connect-to", "HOST:PORT=HOST:PORT"),
        verbose=verbose,
    )
    try:
        raise typer.Exit(asyncio.run(running.Local(options, _say, _show).run()))
    except (FileError, PodError, running.LocalError) as exc:
        _fail(str(exc))


@app.command()
def check(file: File, name: Name = None) -> None:
    """Say whether a file is right, with every field that is not: the verdict of the API server, without one.

    [bold]Examples[/bold]

      llmproxy check -f proxy.yaml
    """
    try:
        bundle = manifests.load(file, name=name)
        render_text(bundle)
    except FileError as exc:
        _fail(str(exc))
    names = ", ".join(model.name for model in bundle.proxy.spec.models)
    _say(f"{file}: LLMProxy {bundle.proxy.metadata.name} is right; models {names}")


@app.command()
def render(file: File, name: Name = None) -> None:
    """Print the objects that the operator would make of an LLMProxy, as YAML.

    They are for reading: in a cluster they have an owner, and a hash that knows the Secrets.

    [bold]Examples[/bold]

      llmproxy render -f proxy.yaml
    """
    try:
        typer.echo(render_text(manifests.load(file, name=name)), nl=False)
    except FileError as exc:
        _fail(str(exc))


@app.command()
def convert(
    file: Annotated[
        Path,
        typer.Option(
            "--file", "-f", help="A config.yaml of LiteLLM, or model_list beside litellm_config.", show_default=False
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the LLMProxy; its Secret is NAME-keys.", show_default=False)],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Written into the objects.")] = None,
    store: Annotated[str | None, typer.Option(help="LightningStore that calls are recorded in.")] = None,
    for_local: Annotated[
        bool, typer.Option("--for-local", help="For `llmproxy local`: addresses of this machine are right.")
    ] = False,
) -> None:
    """Print the LLMProxy that does what a file of LiteLLM or Agent-Lightning says, and a Secret to fill in.

    Keys are never printed. What is not carried over is said on standard error, each with its line; if it would change
    what the proxy does, nothing is made.

    [bold]Examples[/bold]

      llmproxy convert -f config.yaml --name qwen > proxy.yaml
      llmproxy convert -f config.yaml --name qwen -n training --store http://lightning-store:4747
    """
    options = converted.Options(file, name, namespace, store, in_cluster=not for_local)
    try:
        made = converted.convert_file(options, os.environ)
    except FileError as exc:
        _fail(str(exc))
    typer.echo(made.manifests, nl=False)
    for remark in made.remarks:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold]llmproxy:[/bold] {_plain(remark)}")


def _pairs(given: list[str] | None, flag: str, form: str) -> dict[str, str]:
    pairs = {}
    for text in given or ():
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise typer.BadParameter(f"{flag} must be {form}, got {text!r}")
        pairs[left] = right
    return pairs


def _secrets(given: list[str] | None) -> dict[SecretRef, str]:
    secrets = {}
    for left, variable in _pairs(given, "--secret", "NAME/KEY=VARIABLE").items():
        name, slash, key = left.partition("/")
        if not (name and slash and key):
            raise typer.BadParameter(f"--secret must be NAME/KEY=VARIABLE, got {left!r}")
        secrets[name, key] = variable
    return secrets


def _say(text: str) -> None:
    Console(soft_wrap=True, highlight=False).print(f"[bold]llmproxy:[/bold] {_plain(text)}")


def _show(part: str, line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[dim]{part} |[/dim] {_plain(line)}")


def _plain(text: str) -> str:
    """Return *text* so that no bracket in it is taken for markup."""
    return text.replace("[", "\\[")


def _fail(text: str) -> NoReturn:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for line in text.splitlines():
        console.print(f"[bold red]llmproxy:[/bold red] {_plain(line)}")
    raise typer.Exit(1)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="llmproxy")


if __name__ == "__main__":
    main()
