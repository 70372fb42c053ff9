"""`llmproxy top`: a live table, one table, or JSON of samples taken at an interval."""

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
from llmproxy_cli.top.metrics import Backlog, History, LimitUsage, ProxyRow, Sample
from llmproxy_cli.top.sources import Sampler, SourceError

WINDOW_S = 30.0
"""Interval of rates and percentiles in the live view."""
PIPE_WIDTH = 400
"""Columns without a terminal: each proxy is one line."""
WARN_SHARE = 0.9
"""Share of a limit from which it is highlighted."""
_KIB = 1024


@dataclass(frozen=True)
class TopOptions:
    """Flags of the command."""

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
        """True if `llmproxy local` is the source: by flag, or because it runs and no flag names a cluster."""
        cluster = self.kubeconfig or self.context or self.namespace or self.everywhere
        return self.local or (not cluster and bool(registry.running()))


async def once(options: TopOptions) -> tuple[History, str, Sample]:
    """Take two samples, an interval apart; return history, source and last sample. Raise SourceError."""
    async with AsyncExitStack() as stack:
        sampler, place = await _sampler(options, stack)
        history = History(1)
        history.add(await _filtered(sampler, options))
        await asyncio.sleep(options.interval_s)
        sample = await _filtered(sampler, options)
        history.add(sample)
        return history, place, sample


async def live(options: TopOptions, console: Console) -> None:
    """Show the live table until Ctrl-C. After a failed sample it shows the error and the last sample."""
    async with AsyncExitStack() as stack:
        sampler, place = await _sampler(options, stack)
        history = History(max(1, round(WINDOW_S / options.interval_s)))
        sample = await _filtered(sampler, options)  # an unreachable source fails before the screen is cleared
        history.add(sample)
        trouble = ""
        with Live(console=console, screen=True, auto_refresh=False) as display:
            while True:
                display.update(screen(history, place, sample, trouble), refresh=True)
                await asyncio.sleep(options.interval_s)
                try:
                    sample, trouble = await _filtered(sampler, options), ""
                    history.add(sample)
                except SourceError as exc:
                    trouble = str(exc)


async def _sampler(options: TopOptions, stack: AsyncExitStack) -> tuple[Sampler, str]:
    if options.is_local:
        if not registry.running():
            raise SourceError("no `llmproxy local` is running")
        return await stack.enter_async_context(sources.local_source()), "llmproxy local"
    sampler, namespace = await stack.enter_async_context(
        sources.cluster_source(
            kubeconfig=options.kubeconfig,
            context=options.context,
            namespace=options.namespace,
            everywhere=options.everywhere,
        )
    )
    return sampler, f"namespace {namespace}" if namespace else "all namespaces"


async def _filtered(sampler: Sampler, options: TopOptions) -> Sample:
    sample = await sampler()
    if not options.names:
        return sample
    pods = tuple(pod for pod in sample.pods if pod.owner[1] in options.names)
    return Sample(sample.at_s, pods, sample.problems)


def as_json(history: History, place: str, sample: Sample) -> str:
    """Return the table as JSON."""
    rows = [row.plain() for row in history.rows()]
    document = {"place": place, "overSeconds": round(history.over_s, 3), "proxies": rows, "problems": sample.problems}
    return json.dumps(document, indent=2)


def screen(history: History, place: str, sample: Sample, trouble: str) -> RenderableType:
    """Return the live view."""
    head = Text(f"{place}   {datetime.now(UTC).astimezone():%H:%M:%S}   over {history.over_s:.0f} s   Ctrl-C ends")
    messages = [Text(problem, style="red") for problem in (*sample.problems, *([trouble] if trouble else []))]
    return Group(head, table(history.rows(), limit_per_line=True), *messages)


def table(rows: list[ProxyRow], *, limit_per_line: bool) -> RenderableType:
    """Return the table; with *limit_per_line* each limit has its own line, else each proxy is one line."""
    if not rows:
        return Text("no pods of an LLMProxy are running here")
    grid = Table(box=box.SIMPLE_HEAD if limit_per_line else None, pad_edge=False)
    for title in ("NAMESPACE", "NAME", "PODS", "MODE"):
        grid.add_column(title, no_wrap=True)
    for title in ("REQ/S", "429/S", "5XX/S", "IN FLIGHT", "WAITING", "P50", "P99", "SPANS BEHIND"):
        grid.add_column(title, no_wrap=True, justify="right")
    grid.add_column("LIMITS IN USE", no_wrap=True)
    for row in rows:
        usages = [_usage(usage) for usage in row.limits] or [Text("-")]
        grid.add_row(
            *(row.namespace, row.name, str(row.pods), row.mode or "-"),
            *(rate(row.requests_per_s), rate(row.limited_per_s), rate(row.failed_per_s)),
            *(str(row.in_flight), str(row.waiting), seconds(row.p50_s), seconds(row.p99_s), behind(row.backlog)),
            Text("\n" if limit_per_line else ", ").join(usages),
        )
    return grid


def rate(value: float | None) -> str:
    """Return a rate by second in few characters."""
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
    """Return the backlog in few characters."""
    if backlog is None:
        return "-"
    missing = f"{backlog.without_token_ids} without token ids" if backlog.without_token_ids else ""
    if not (backlog.calls or backlog.waiting_bytes):
        return missing or "0"
    calls = f"{backlog.calls} calls" if backlog.calls else ""
    waiting = size(backlog.waiting_bytes) if backlog.waiting_bytes else ""
    return " ".join(part for part in (calls, waiting, seconds(backlog.oldest_s), missing) if part)


def size(count: float) -> str:
    """Return a number of bytes in few characters."""
    for unit in ("B", "KiB", "MiB"):
        if count < _KIB:
            return f"{count:.0f}{unit}"
        count /= _KIB
    return f"{count:.1f}GiB"


def _usage(usage: LimitUsage) -> Text:
    name = f"{usage.model}:{usage.kind}" if usage.model else usage.kind
    full = usage.limit and usage.used >= WARN_SHARE * usage.limit
    return Text(f"{name} {usage.used:g}/{usage.limit:g}", style="yellow" if full else "")
