"""`make demo`: the quickstart without a cluster, in under a minute.

A real LightningStore and the echo model server stand where a cluster has its Services; `llmproxy local` runs the
quickstart's own file. Everything shown is checked: the demo ends with 1 and says what was not as promised. It changes a
copy of the file, and leaves nothing behind.
"""

import argparse
import json
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from openai import APIConnectionError, APIStatusError, OpenAI
from processes import DemoError, Process, running
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "quickstart/proxy.yaml"
ECHO, STORE = "echo:8000", "lightning-store:4747"
"""What the quickstart's file calls the model server and the store."""
BEFORE, AFTER = 5, 10
"""The limit in the file, and the one that it is edited to."""
REQUESTS = 20
ROLLOUTS = 4
PIPED_WIDTH = 110


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    number: int
    rollout: str
    status: int
    retry_after: str = ""
    limit: str = ""
    ident: str = ""
    text: str = ""


@dataclass(frozen=True)
class Places:
    """Where everything is."""

    proxy: str
    echo: str
    store: str


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="The quickstart without a cluster.")
    parser.add_argument("--agl", required=True, help="Agent-Lightning's command, for its store")
    agl = parser.parse_args().agl
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=PIPED_WIDTH, highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="llmproxy-demo-"))
    try:
        with ExitStack() as stack:
            show(console, agl, folder, stack)
    except DemoError as exc:
        console.print(f"\n[bold red]NOT AS PROMISED[/]: {str(exc).replace('[', chr(92) + '[')}")
        return 1
    except KeyboardInterrupt:
        console.print("\nended before its end")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - started_s
    console.print(
        f"\n[bold green]As promised[/], in {seconds:.0f} s: a limit that holds, every answered call in the store, and "
        "an edit in force without a refused connection or a forgotten call.\n"
        "Try next: [bold].venv/bin/llmproxy local --help[/], with a file of yours; or [bold]make demo-cluster[/], the "
        "same with kubectl."
    )
    return 0


def show(console: Console, agl: str, folder: Path, stack: ExitStack) -> None:
    """Tell the story; raise DemoError where it is not true."""
    file = folder / "proxy.yaml"
    shutil.copy(QUICKSTART, file)
    console.rule("1. A LightningStore, a model server, and the quickstart's LLMProxy")
    places, local = start(console, agl, file, stack)

    console.rule(f"2. {REQUESTS} rapid requests of {ROLLOUTS} rollouts against rpm: {BEFORE}")
    attempts = dict(start_rollout(places.store) for _ in range(ROLLOUTS))
    first = burst(places.proxy, attempts)
    console.print(table_of(first))
    check_burst(first, answered=BEFORE, limit=BEFORE)
    seen = get(f"{places.echo}/stats")["calls"]
    expect(seen == BEFORE, f"the model server saw {seen} calls, not {BEFORE}")
    console.print(
        f"{BEFORE} answered, {REQUESTS - BEFORE} told when to come back; the model server saw {seen} calls.\n"
    )

    console.rule("3. The spans in the store")
    console.print(spans_table(places.store, attempts, first))

    console.rule(f"4. The file is edited: rpm: {BEFORE} becomes rpm: {AFTER}")
    probes = edit(places, local, file)
    second = burst(places.proxy, attempts)
    check_burst(second, answered=AFTER - BEFORE, limit=AFTER)
    console.print(table_of(second, only_answered=True))
    console.print(
        f"{AFTER - BEFORE} more are answered: {AFTER} in any minute, and the new gateway knows of the {BEFORE} before. "
        f"{probes} requests to /v1/models during the roll: none refused."
    )
    spans_table(places.store, attempts, [*first, *second])
    expect(local.end() == 0, "llmproxy local did not end cleanly")


def start(console: Console, agl: str, file: Path, stack: ExitStack) -> tuple[Places, Process]:
    """Start everything; return where it is, and the proxy."""
    echo_port, store_port, port = (free_port() for _ in range(3))
    places = Places(*(f"http://127.0.0.1:{p}" for p in (port, echo_port, store_port)))
    folder = file.parent
    store_command = [agl, "store", "--host", "127.0.0.1", "--port", str(store_port), "--log-level", "WARNING"]
    store = stack.enter_context(running("LightningStore", store_command, folder))
    echo_command = [sys.executable, "-m", "llmproxy.echo", "--port", str(echo_port)]
    echo = stack.enter_context(running("echo", echo_command, folder))
    echo.wait_for("it was ready", lambda: echo.printed("ready on") > 0, 30)
    console.print(f"model server    {places.echo}  (python -m llmproxy.echo)")
    store.wait_for("it was ready", lambda: is_up(f"{places.store}/v1/agl/health"), 90)
    console.print(f"LightningStore  {places.store}  (agl store)")
    local_command = [
        *(sys.executable, "-m", "llmproxy_cli", "local", "-f", str(file), "--port", str(port)),
        *("--connect-to", f"{ECHO}=127.0.0.1:{echo_port}", "--connect-to", f"{STORE}=127.0.0.1:{store_port}"),
    ]
    local = stack.enter_context(running("llmproxy local", local_command, folder))
    local.wait_for("it was ready", lambda: local.printed("is ready on") > 0, 60)
    console.print(f"LLMProxy        {places.proxy}  (llmproxy local -f proxy.yaml, a copy of {QUICKSTART.name})\n")
    return places, local


def burst(proxy: str, attempts: dict[str, str]) -> list[Answer]:
    """Send the requests as fast as they go, as trainers would: with the OpenAI SDK, each for a rollout."""
    clients = [
        (rollout, OpenAI(base_url=f"{proxy}/rollout/{rollout}/attempt/{attempt}/v1", api_key="none", max_retries=0))
        for rollout, attempt in attempts.items()
    ]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda i: one(i, *clients[i % len(clients)]), range(REQUESTS)))


def one(number: int, rollout: str, client: OpenAI) -> Answer:
    """Send one request."""
    messages: Any = [{"role": "user", "content": f"hello number {number}"}]
    try:
        raw = client.chat.completions.with_raw_response.create(model="echo", messages=messages, max_tokens=64)
    except APIStatusError as exc:
        return Answer(number, rollout, exc.status_code, exc.response.headers.get("retry-after", ""), text=exc.message)
    except APIConnectionError as exc:
        return Answer(number, rollout, 0, text=repr(exc.__cause__ or exc))
    answer = raw.parse()
    text = answer.choices[0].message.content or ""
    limit = raw.headers.get("x-ratelimit-limit-requests", "")
    return Answer(number, rollout, raw.status_code, limit=limit, ident=answer.id, text=text)


def check_burst(answers: list[Answer], *, answered: int, limit: int) -> None:
    """See that so many were answered, and the rest told truly when to come back."""
    good = [a for a in answers if a.status == 200]  # noqa: PLR2004 - HTTP
    odd = [a for a in answers if a.status not in {200, 429}]
    expect(not odd, f"a request ended with {odd[0].status}: {odd[0].text}" if odd else "")
    expect(len(good) == answered, f"{len(good)} requests were answered, not {answered}")
    expect(
        all(a.limit == str(limit) for a in good),
        f"answers speak of limits {sorted({a.limit for a in good})}, not {limit}",
    )
    waits = [a.retry_after for a in answers if a.status == 429]  # noqa: PLR2004 - HTTP
    expect(all(w.isdigit() and 1 <= int(w) <= 61 for w in waits), f"Retry-After: {waits}")  # noqa: PLR2004 - a minute


def table_of(answers: list[Answer], *, only_answered: bool = False) -> Table:
    """Return the answers as a table."""
    table = a_table("no.", "rollout", "status", "Retry-After", "served", "answer")
    for a in answers:
        good = a.status == 200  # noqa: PLR2004 - HTTP
        if good or not only_answered:
            colour, served = ("green", "yes") if good else ("yellow", "no")
            wait = f"{a.retry_after} s" if a.retry_after else ""
            text = " ".join(a.text.replace("[", "\\[").split())
            table.add_row(str(a.number), short(a.rollout), f"[{colour}]{a.status}[/]", wait, served, text)
    return table


def spans_table(store: str, attempts: dict[str, str], answers: list[Answer]) -> Table:
    """Return the spans of the answered calls, read back from the store; raise DemoError if one is not there."""
    wanted = {a.ident: a.rollout for a in answers if a.ident}
    deadline_s = time.monotonic() + 20
    found: list[dict[str, Any]] = []
    while time.monotonic() < deadline_s and len(found) < len(wanted):
        found = [span for rollout, attempt in attempts.items() for span in calls_of(store, rollout, attempt)]
        time.sleep(0.1)
    told = {span["attributes"].get("gen_ai.response.id"): span["rollout_id"] for span in found}
    expect(told == wanted, f"the store has spans of {sorted(map(str, told))}, answered were {sorted(wanted)}")
    expect(len(found) == len(wanted), f"the store has {len(found)} spans of {len(wanted)} calls")
    table = a_table("rollout", "attempt", "sequence", "span", "token ids", "response")
    for span in found:
        attributes = span["attributes"]
        ids = [str(count_ids(attributes.get(key))) for key in ("prompt_token_ids", "response_token_ids")]
        expect("0" not in ids, f"the span of {attributes['gen_ai.response.id']} has no token ids")
        ident = attributes["gen_ai.response.id"]
        names = (short(span["rollout_id"]), short(span["attempt_id"]), str(span["sequence_id"]), span["name"])
        table.add_row(*names, " + ".join(ids), ident)
    return table


def a_table(*names: str) -> Table:
    """Return an empty table that fits a terminal of 80 columns: its last column takes what is left."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in names[:-1]:
        table.add_column(name, no_wrap=True)
    table.add_column(names[-1], no_wrap=True, ratio=1)
    return table


def short(ident: str) -> str:
    """Return the begin of an id, enough to tell it from the others of a demo."""
    return ident if len(ident) < 11 else f"{ident[:9]}…"  # noqa: PLR2004 - fits its column


def count_ids(value: object) -> int:
    """Return how many token ids an attribute holds: a list, or one written as text."""
    ids = json.loads(value) if isinstance(value, str) else value
    return len(ids) if isinstance(ids, list) else 0


def calls_of(store: str, rollout: str, attempt: str) -> list[dict[str, Any]]:
    """Return the span of each call of an attempt, in the order of sequence ids."""
    query = {"rollout_id": rollout, "attempt_id": attempt, "name": "litellm_request", "limit": -1}
    items: list[dict[str, Any]] = get(f"{store}/v1/agl/spans?{urlencode({**query, 'sort_by': 'sequence_id'})}")["items"]
    return items


def edit(places: Places, local: Process, file: Path) -> int:
    """Change the limit in the file while requests go on; return how many did. None may be refused."""
    failed: list[str] = []
    count = 0
    done = threading.Event()

    def probe() -> None:
        nonlocal count
        while not done.is_set():
            try:
                get(f"{places.proxy}/v1/models")
            except OSError as exc:
                failed.append(str(exc))
            count += 1
            time.sleep(0.01)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        text, changed = re.subn(rf"\brpm: {BEFORE}\b", f"rpm: {AFTER}", file.read_text())
        expect(changed == 1, f"{QUICKSTART} has not one `rpm: {BEFORE}`")
        file.write_text(text)
        local.wait_for("the edit was in force", lambda: local.printed("is ready on") > 1, 60)
        time.sleep(0.5)
    finally:
        done.set()
        thread.join()
    expect(not failed, f"{len(failed)} of {count} requests during the roll failed: {failed[:1]}")
    return count


def start_rollout(store: str) -> tuple[str, str]:
    """Begin a rollout; return its id and its attempt's."""
    body = json.dumps({"input": {"task": "demo"}, "mode": "train"}).encode()
    made = get(f"{store}/v1/agl/rollouts", body)
    return made["rollout_id"], made["attempt"]["attempt_id"]


def get(url: str, body: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON at *url*, posting *body* if there is one; raise OSError."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - our own addresses
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        return json.load(answer)


def is_up(url: str) -> bool:
    """Whether *url* answers."""
    try:
        get(url)
    except OSError:
        return False
    return True


def expect(holds: object, otherwise: str) -> None:
    """Raise DemoError(*otherwise*) unless it *holds*."""
    if not holds:
        raise DemoError(otherwise)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
