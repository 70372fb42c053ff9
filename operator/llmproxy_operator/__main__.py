"""`python -m llmproxy_operator`: the command line of the operator. Every flag overrides a variable of the chart."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from llmproxy_operator import logs
from llmproxy_operator.settings import LOG_LEVELS, SettingsError, from_environment

EPILOG = """\
What is wanted is read from LLMProxy objects; what is made of them is written with server-side apply by the field
manager llmproxy-operator. In a pod the service account says which cluster; elsewhere KUBECONFIG does.

Examples:
  python -m llmproxy_operator --proxy-image registry.example/llmproxy:0.1.0
  python -m llmproxy_operator --proxy-image llmproxy:dev --namespace training --no-leader-elect

Exit codes: 0 told to end, 1 something broke (start it again), 2 wrong flags or variables.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator; return the exit code."""
    given = vars(_parser().parse_args(arguments))
    environment = dict(os.environ)
    environment |= {name: value for name, value in _as_variables(given).items() if value}
    try:
        settings = from_environment(environment)
    except SettingsError as exc:
        print(f"llmproxy-operator: {exc}; see --help", file=sys.stderr)  # noqa: T201 - a person waits
        return 2
    logs.configure(settings.log_level)
    from llmproxy_operator.manager import run  # noqa: PLC0415 - kopf and the client: not for --help

    return asyncio.run(run(settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmproxy_operator",
        description="Keeps the pods, Services and configurations of LLMProxies as they are wanted.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="a namespace to look after; may be repeated. Default: all (OPERATOR_WATCH_NAMESPACES)",
    )
    add("--proxy-image", metavar="IMAGE", help="image of proxies that name none (OPERATOR_PROXY_IMAGE)")
    add(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="agree by a Lease with other replicas on who works (OPERATOR_LEADER_ELECTION, default: yes)",
    )
    add(
        "--health-port",
        metavar="PORT",
        help="/healthz, /readyz, /metrics (OPERATOR_METRICS_LISTEN_PORT, default: 8080)",
    )
    add("--log-level", choices=LOG_LEVELS, help="OPERATOR_LOG_LEVEL, default: INFO")
    return parser


def _as_variables(given: dict[str, object]) -> dict[str, str]:
    elect = given["leader_elect"]
    namespaces = given["namespace"]
    return {
        "OPERATOR_WATCH_NAMESPACES": ",".join(namespaces) if isinstance(namespaces, list) else "",
        "OPERATOR_PROXY_IMAGE": str(given["proxy_image"] or ""),
        "OPERATOR_LEADER_ELECTION": "" if elect is None else str(elect).lower(),
        "OPERATOR_METRICS_LISTEN_PORT": str(given["health_port"] or ""),
        "OPERATOR_LOG_LEVEL": str(given["log_level"] or ""),
    }


if __name__ == "__main__":
    sys.exit(main())
