"""Commands and flags of `llmproxy`."""

import asyncio
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from llmproxy_api import KIND
from llmproxy_cli import convert as converter
from llmproxy_cli import manifests
from llmproxy_cli.local import runner
from llmproxy_cli.local.pod import PodError
from llmproxy_cli.manifests import FileError, SecretRef
from llmproxy_cli.render import IMAGE, render_text
from llmproxy_cli.top import view
from llmproxy_cli.top.sources import SourceError
from llmproxy_operator.render.inputs import DEFAULT_STORE_IMAGE


class Output(Enum):
    """Output formats of `top`."""

    table = "table"
    json = "json"


app = typer.Typer(
    name="llmproxy",
    help="Run, validate, render, convert and monitor LLMProxy resources. Only `top` connects to a cluster, read-only.",
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
        help="Manifests: an LLMProxy, and optionally Secrets; - is standard input.",
        show_default=False,
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the LLMProxy, if the file has several.")]
ConnectTo = Annotated[
    list[str] | None,
    typer.Option(
        "--connect-to",
        metavar="HOST:PORT=HOST:PORT",
        help="Replace an address of the cluster by one of this machine.",
    ),
]
SecretFlags = Annotated[
    list[str] | None,
    typer.Option(
        "--secret", metavar="NAME/KEY=VARIABLE", help="Environment variable with the value of a Secret's key."
    ),
]


@app.callback()
def _main() -> None:
    """Require a command, so that typer does not inline a single one."""


@app.command()
def local(  # noqa: PLR0913, PLR0917 - a flag of the command line each
    file: File,
    port: Annotated[int, typer.Option(help="Listen port; 0 is any free port.", min=0, max=65535)] = 4000,
    host: Annotated[
        str, typer.Option(help="Listen address. API keys are required only with spec.access.apiKeys.")
    ] = "127.0.0.1",
    name: Name = None,
    secret: SecretFlags = None,
    connect_to: ConnectTo = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder for sockets and the spool; default: a temporary one.")
    ] = None,
    translator_python: Annotated[
        str, typer.Option(help="Python of an environment with LiteLLM, for models that need translation.")
    ] = sys.executable,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all output of the processes.")] = False,
) -> None:
    """Run an LLMProxy on this machine, with the manifest and behaviour of a cluster and processes instead of pods.

    The file is watched: an edit rolls to a new gateway on the same port,
    which takes over the counters of the limits; no request is refused.
    Ctrl-C finishes the requests in flight and delivers their spans.

    [bold]Examples[/bold]

      llmproxy local -f proxy.yaml
      llmproxy local -f proxy.yaml --port 4001 --secret openai/api-key=OPENAI_API_KEY
      llmproxy local -f proxy.yaml --connect-to vllm:8000=127.0.0.1:8000
      llmproxy local -f gemini.yaml --translator-python ~/litellm/bin/python
    """
    if file == manifests.STDIN:
        _fail("local watches its file for edits, which standard input cannot have: use a file")
    options = runner.LocalOptions(
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
        raise typer.Exit(asyncio.run(runner.LocalRunner(options, _say, _show).run()))
    except (FileError, PodError, runner.LocalError) as exc:
        _fail(str(exc))


@app.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Files and folders of manifests.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="As the arguments, also several times; - is standard input."),
    ] = None,
    name: Name = None,
) -> None:
    """Validate manifests offline, with the same result as the API server. Lists every invalid field.

    Files may have several documents and lists; folders are searched for
    YAML and JSON files that mention an LLMProxy. The exit code is 0 if all
    LLMProxies are valid, else 1: use it as a pre-commit hook. It does not
    check what only a cluster knows: Secrets, images, and the settings of
    the operator.

    [bold]Examples[/bold]

      llmproxy check -f proxy.yaml
      llmproxy check deploy/ other.yaml
      kustomize build . | llmproxy check -f -
      kubectl get llmproxies -A -o yaml | llmproxy check -f -
    """
    paths = [*(files or ()), *(file or ())]
    if not paths:
        _fail("name files, folders or -")
    errors, proxies = 0, 0
    for source, result in manifests.load_all(paths, name=name):
        try:
            if isinstance(result, FileError):
                raise result
            render_text(result)
        except FileError as exc:
            errors += 1
            _print_lines(str(exc), source)
            continue
        proxies += 1
        models = ", ".join(model.name for model in result.proxy.spec.models)
        _say(f"{source}: LLMProxy {result.proxy.metadata.name} is valid; models {models}")
    if not errors and not proxies:
        sources = ", ".join(str(path) for path in paths)
        _fail(f"{sources}: there is no object of kind {KIND}{f' named {name}' if name else ''}")
    raise typer.Exit(1 if errors else 0)


@app.command()
def render(
    file: File,
    name: Name = None,
    image: Annotated[str, typer.Option(help="Default image of the proxy, as in the operator's settings.")] = IMAGE,
    limits_store_image: Annotated[
        str, typer.Option(help="Image of the store of shared limits, as in the operator's settings.")
    ] = DEFAULT_STORE_IMAGE,
) -> None:
    """Print the objects that the operator creates for an LLMProxy, as YAML.

    Use it to review changes, such as a diff in a pull request. In a cluster
    the objects have an owner reference besides, and a hash that includes the
    Secrets. The operator's own Secrets and the ControllerRevision of the pod
    template are left out.

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
            "--file",
            "-f",
            help="LiteLLM's config.yaml, a ConfigMap with it, values of its chart, or model_list with litellm_config.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the LLMProxy; its Secret is NAME-keys.", show_default=False)],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace of the objects.")] = None,
    store: Annotated[str | None, typer.Option(help="URL of the LightningStore that records requests.")] = None,
    for_local: Annotated[
        bool, typer.Option("--for-local", help="For `llmproxy local`: accept addresses of this machine.")
    ] = False,
) -> None:
    """Convert a configuration of LiteLLM or Agent-Lightning to an LLMProxy and a Secret to fill in.

    Keys are never printed. Settings that are not carried over are warnings
    on standard error, each with its line. A setting whose loss would change
    what the proxy does is an error.

    [bold]Examples[/bold]

      llmproxy convert -f config.yaml --name qwen > proxy.yaml
      llmproxy convert -f config.yaml --name qwen -n training --store http://lightning-store:4747
      kubectl get configmap litellm-config -o yaml | llmproxy convert -f - --name qwen
    """
    options = converter.ConvertOptions(file, name, namespace, store, in_cluster=not for_local)
    try:
        conversion = converter.convert_file(options, os.environ)
    except FileError as exc:
        _fail(str(exc))
    typer.echo(conversion.manifests, nl=False)
    for warning in conversion.warnings:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold]llmproxy:[/bold] {_plain(warning)}")


@app.command()
def top(  # noqa: PLR0913, PLR0917 - a flag of the command line each
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of proxies; default: all.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace; default: the context's.")
    ] = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")] = False,
    here: Annotated[
        bool, typer.Option("--local", help="Runs of `llmproxy local`, even if other flags name a cluster.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Print one table, after one interval; the default in a pipe.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="`json` implies --once.")] = Output.table,
    interval: Annotated[float, typer.Option(help="Seconds between two samples.", min=0.2, max=60)] = 2.0,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Default: KUBECONFIG, else ~/.kube/config.", show_default=False)
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig; default: the current one.")] = None,
) -> None:
    """Show live metrics of proxies: requests, 429s, latency, usage of limits, and spans not delivered yet.

    The source is `llmproxy local`, if one runs and no flag names a cluster;
    else a cluster, which requires the rights to list pods and to get
    pods/proxy. Rates and percentiles are over the last 30 s, with --once over
    one interval.

    [bold]Examples[/bold]

      llmproxy top
      llmproxy top -n training qwen
      llmproxy top -A --once
      llmproxy top -o json | jq '.proxies[] | {name, limited_per_s}'
    """
    options = view.TopOptions(
        names=tuple(names or ()),
        local=here,
        kubeconfig=kubeconfig,
        context=context,
        namespace=namespace,
        everywhere=everywhere,
        interval_s=interval,
    )
    try:
        raise typer.Exit(asyncio.run(_top(options, output, is_once=once or not sys.stdout.isatty())))
    except SourceError as exc:
        _fail(str(exc))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _top(options: view.TopOptions, output: Output, *, is_once: bool) -> int:
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=view.PIPE_WIDTH)
    if not is_once and output is not Output.json:
        await view.live(options, console)
        return 0
    history, place, sample = await view.once(options)
    if output is Output.json:
        typer.echo(view.as_json(history, place, sample))
    else:
        console.print(view.table(history.rows(), limit_per_line=False))
    for problem in sample.problems:
        _print_error(problem)
    return 1 if sample.problems else 0


def _pairs(values: list[str] | None, flag: str, form: str) -> dict[str, str]:
    pairs = {}
    for value in values or ():
        key, equals, mapped = value.partition("=")
        if not (key and equals and mapped):
            raise typer.BadParameter(f"{flag} must be {form}, got {value!r}")
        pairs[key] = mapped
    return pairs


def _secrets(values: list[str] | None) -> dict[SecretRef, str]:
    secrets = {}
    for ref, variable in _pairs(values, "--secret", "NAME/KEY=VARIABLE").items():
        name, slash, key = ref.partition("/")
        if not (name and slash and key):
            raise typer.BadParameter(f"--secret must be NAME/KEY=VARIABLE, got {ref!r}")
        secrets[name, key] = variable
    return secrets


def _say(text: str) -> None:
    Console(soft_wrap=True, highlight=False).print(f"[bold]llmproxy:[/bold] {_plain(text)}")


def _show(process: str, line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[dim]{process} |[/dim] {_plain(line)}")


def _plain(text: str) -> str:
    """Return *text* with brackets escaped, which rich takes for markup."""
    return text.replace("[", "\\[")


def _fail(text: str) -> NoReturn:
    _print_lines(text, "")
    raise typer.Exit(1)


def _print_lines(text: str, source: str) -> None:
    """Print errors; *source* is added to those that lack it."""
    for line in text.splitlines():
        _print_error(line if line.startswith(source) else f"{source}: {line}")


def _print_error(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]llmproxy:[/bold red] {_plain(line)}")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="llmproxy")


if __name__ == "__main__":
    main()
