"""`llmproxy top`: looks again and again, and shows what came of it: a live table, one table, or JSON."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llmproxy_cli.local import registry
from llmproxy_cli.top import sources
from llmproxy_cli.top.metrics import Backlog, History, Look, Row, Use
from llmproxy_cli.top.sources import Looker, LookError

WINDOW_S = 30.0
"""What rates and percentiles are over in the live view, once it runs so long."""
PIPE_WIDTH = 400
"""Columns where nobody's screen bounds them: a proxy is one line."""
WARN_SHARE = 0.9
"""A limit that is used so far is shown in another colour."""
_KIB = 1024


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    names: tuple[str, ...] = ()
    """Only these proxies; empty: all."""
    local: bool = False
    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    everywhere: bool = False
    interval_s: float = 2.0

    @property
    def is_local(self) -> bool:
        """Whether `llmproxy local` is looked at: if it is asked for, or runs and no cluster is."""
        cluster = self.kubeconfig or self.context or self.namespace or self.everywhere
        return self.local or (not cluster and bool(registry.alive()))


async def once(options: Options) -> tuple[History, str, Look]:
    """Look twice, an interval apart; return it with where that was and the last look. Raise LookError."""
    async with AsyncExitStack() as stack:
        looker, place = await _looker(options, stack)
        history = History(1)
        history.add(await _chosen(looker, options))
        await asyncio.sleep(options.interval_s)
        look = await _chosen(looker, options)
        history.add(look)
        return history, place, look


async def live(options: Options, console: Console) -> None:
    """Show it until Ctrl-C. A look that fails is told, and the last one stays."""
    async with AsyncExitStack() as stack:
        looker, place = await _looker(options, stack)
        history = History(max(1, round(WINDOW_S / options.interval_s)))
        look = await _chosen(looker, options)  # what cannot be reached at all is told before the screen is taken
        history.add(look)
        trouble = ""
        with Live(console=console, screen=True, auto_refresh=False) as shown:
            while True:
                shown.update(screen(history, place, look, trouble), refresh=True)
                await asyncio.sleep(options.interval_s)
                try:
                    look, trouble = await _chosen(looker, options), ""
                    history.add(look)
                except LookError as exc:
                    trouble = str(exc)


async def _looker(options: Options, stack: AsyncExitStack) -> tuple[Looker, str]:
    if options.is_local:
        if not registry.alive():
            raise LookError("no `llmproxy local` runs here")
        return await stack.enter_async_context(sources.at_local()), "llmproxy local"
    looker, namespace = await stack.enter_async_context(
        sources.at_cluster(
            kubeconfig=options.kubeconfig,
            context=options.context,
            namespace=options.namespace,
            everywhere=options.everywhere,
        )
    )
    return looker, f"namespace {namespace}" if namespace else "all namespaces"


async def _chosen(looker: Looker, options: Options) -> Look:
    look = await looker()
    if not options.names:
        return look
    pods = tuple(pod for pod in look.pods if pod.owner[1] in options.names)
    return Look(look.at_s, pods, look.problems)


def as_json(history: History, place: str, look: Look) -> str:
    """Return all of it for programs."""
    rows = [row.plain() for row in history.rows()]
    said = {"place": place, "overSeconds": round(history.over_s, 3), "proxies": rows, "problems": look.problems}
    return json.dumps(said, indent=2)


def screen(history: History, place: str, look: Look, trouble: str) -> RenderableType:
    """Return what the live view shows."""
    head = Text(f"{place}   {datetime.now(UTC).astimezone():%H:%M:%S}   over {history.over_s:.0f} s   Ctrl-C ends")
    told = [Text(problem, style="red") for problem in (*look.problems, *([trouble] if trouble else []))]
    return Group(head, table(history.rows(), limits_apart=True), *told)


def table(rows: list[Row], *, limits_apart: bool) -> RenderableType:
    """Return the rows; with *limits_apart* each limit on a line of its own, else one line a proxy."""
    if not rows:
        return Text("no pod of an LLMProxy runs here")
    made = Table(box=box.SIMPLE_HEAD if limits_apart else None, pad_edge=False)
    for title in ("NAMESPACE", "NAME", "PODS", "MODE"):
        made.add_column(title, no_wrap=True)
    for title in ("REQ/S", "429/S", "5XX/S", "IN FLIGHT", "WAITING", "P50", "P99", "SPANS BEHIND"):
        made.add_column(title, no_wrap=True, justify="right")
    made.add_column("LIMITS IN USE", no_wrap=True)
    for row in rows:
        uses = [_use(use) for use in row.limits] or [Text("-")]
        made.add_row(
            *(row.namespace, row.name, str(row.pods), row.mode or "-"),
            *(rate(row.requests_per_s), rate(row.limited_per_s), rate(row.failed_per_s)),
            *(str(row.in_flight), str(row.waiting), seconds(row.p50_s), seconds(row.p99_s), behind(row.backlog)),
            Text("\n" if limits_apart else ", ").join(uses),
        )
    return made


def rate(value: float | None) -> str:
    """Return events a second in few characters."""
    if value is None:
        return "-"
    return "0" if not value else f"{value:.2f}" if value < 10 else f"{value:.0f}"  # noqa: PLR2004 - three digits


def seconds(value: float | None) -> str:
    """Return a duration in few characters."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f}ms"
    return f"{value:.1f}s" if value < 10 else f"{value:.0f}s"  # noqa: PLR2004 - two digits


def behind(backlog: Backlog | None) -> str:
    """Return what is not in the store yet."""
    if backlog is None:
        return "-"
    if not (backlog.calls or backlog.waiting_bytes):
        return "0"
    calls = f"{backlog.calls} calls" if backlog.calls else ""
    waiting = size(backlog.waiting_bytes) if backlog.waiting_bytes else ""
    return " ".join(part for part in (calls, waiting, seconds(backlog.oldest_s)) if part)


def size(count: float) -> str:
    """Return a number of bytes in few characters."""
    for unit in ("B", "KiB", "MiB"):
        if count < _KIB:
            return f"{count:.0f}{unit}"
        count /= _KIB
    return f"{count:.1f}GiB"


def _use(use: Use) -> Text:
    named = f"{use.model}:{use.kind}" if use.model else use.kind
    full = use.limit and use.used >= WARN_SHARE * use.limit
    return Text(f"{named} {use.used:g}/{use.limit:g}", style="yellow" if full else "")
