"""`llmproxy`: reads the command line and says what came of it."""

import asyncio
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from llmproxy_cli import convert as converted
from llmproxy_cli import manifests
from llmproxy_cli.local import runner as running
from llmproxy_cli.local.pod import PodError
from llmproxy_cli.manifests import FileError, SecretRef
from llmproxy_cli.render import IMAGE, render_text
from llmproxy_cli.top import view as watching
from llmproxy_cli.top.sources import LookError
from llmproxy_operator.render.inputs import DEFAULT_STORE_IMAGE


class Output(Enum):
    """How `top` prints."""

    table = "table"
    json = "json"


app = typer.Typer(
    name="llmproxy",
    help="Run, check, make and watch LLMProxy resources. Only `top` speaks to a cluster, and only reads.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[
    Path,
    typer.Option(
        "--file",
        "-f",
        help="Manifests: an LLMProxy, and Secrets if you like; - is standard input.",
        show_default=False,
    ),
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

    The file is watched: an edit rolls to a new gateway on the same port,
    which takes the limits' counters over, and no request is refused.
    Ctrl-C finishes the calls in flight and delivers their spans.

    [bold]Examples[/bold]

      llmproxy local -f proxy.yaml
      llmproxy local -f proxy.yaml --port 4001 --secret openai/api-key=OPENAI_API_KEY
      llmproxy local -f proxy.yaml --connect-to vllm:8000=127.0.0.1:8000
      llmproxy local -f gemini.yaml --translator-python ~/litellm/bin/python
    """
    if file == manifests.STDIN:
        _fail("local watches its file for edits, so it cannot be standard input: name a file")
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

    Ends with 0 if it is right, with 1 if not: for a hook before a commit.
    What only a cluster knows is not looked at: whether Secrets and images
    are there, and what its administrator allows.

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
def render(
    file: File,
    name: Name = None,
    image: Annotated[
        str, typer.Option(help="Image of the proxy: the operator's own, where spec.image is absent.")
    ] = IMAGE,
    limits_store_image: Annotated[
        str, typer.Option(help="Image of the store of shared limits, as the operator has it.")
    ] = DEFAULT_STORE_IMAGE,
) -> None:
    """Print the objects that the operator would make of an LLMProxy, as YAML.

    They are for reading, as a diff in a pull request: in a cluster they have
    an owner besides, and a hash that knows the Secrets. The Secrets that the
    operator makes, and the ControllerRevision that keeps what the pods are
    made from, are left out.

    [bold]Examples[/bold]

      llmproxy render -f proxy.yaml
      llmproxy render -f proxy.yaml --image registry.example/llmproxy:0.1.0
      diff <(git show main:proxy.yaml | llmproxy render -f -) <(llmproxy render -f proxy.yaml)
    """
    try:
        bundle = manifests.load(file, name=name)
        typer.echo(render_text(bundle, image=image, store_image=limits_store_image), nl=False)
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

    Keys are never printed. What is not carried over is said on standard
    error, each with its line; if it would change what the proxy does,
    nothing is made.

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
    for warning in made.warnings:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold]llmproxy:[/bold] {_plain(warning)}")


@app.command()
def top(  # noqa: PLR0913, PLR0917 - a flag of the command line each
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these proxies.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Where in the cluster; default: the context's namespace.")
    ] = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Proxies of all namespaces.")] = False,
    here: Annotated[
        bool, typer.Option("--local", help="What `llmproxy local` runs, even if flags or a context name a cluster.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="One table, after one interval; so is what goes into a pipe.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="`json` is once, for programs.")] = Output.table,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=60)] = 2.0,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Default: KUBECONFIG, else ~/.kube/config.", show_default=False)
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig; default: the current one.")] = None,
) -> None:
    """Show proxies at work: requests, 429s, latency, limits in use, and spans that are not in the store yet.

    Looks at what `llmproxy local` runs, if there is any and no flag names a
    cluster; else at a cluster, where it needs the rights to list pods and to
    get pods/proxy. Rates and percentiles are over the last 30 s, with --once
    over one interval.

    [bold]Examples[/bold]

      llmproxy top
      llmproxy top -n training qwen
      llmproxy top -A --once
      llmproxy top -o json | jq '.proxies[] | {name, limited_per_s}'
    """
    wanted = watching.Options(
        names=tuple(names or ()),
        local=here,
        kubeconfig=kubeconfig,
        context=context,
        namespace=namespace,
        everywhere=everywhere,
        interval_s=interval,
    )
    is_once = once or output is Output.json or not sys.stdout.isatty()
    try:
        raise typer.Exit(asyncio.run(_top(wanted, output, is_once=is_once)))
    except LookError as exc:
        _fail(str(exc))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _top(wanted: watching.Options, output: Output, *, is_once: bool) -> int:
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=watching.PIPE_WIDTH)
    if not is_once:
        await watching.live(wanted, console)
        return 0
    history, place, look = await watching.once(wanted)
    if output is Output.json:
        typer.echo(watching.as_json(history, place, look))
    else:
        console.print(watching.table(history.rows(), limits_apart=False))
    for problem in look.problems:
        _complain(problem)
    return 1 if look.problems else 0


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
    for line in text.splitlines():
        _complain(line)
    raise typer.Exit(1)


def _complain(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]llmproxy:[/bold red] {_plain(line)}")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="llmproxy")


if __name__ == "__main__":
    main()
