"""Command line of the operator: `python -m llmproxy_operator`. A flag overrides a variable of the environment."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from llmproxy_operator import logs
from llmproxy_operator.settings import LOG_LEVELS, SettingsError, from_environment

EPILOG = """\
The operator reads LLMProxy objects and writes their children with server-side apply as the field manager
llmproxy-operator. In a pod it uses the service account; elsewhere KUBECONFIG.

Examples:
  python -m llmproxy_operator --proxy-image registry.example/llmproxy:0.1.0
  python -m llmproxy_operator --proxy-image llmproxy:dev --namespace training --no-leader-elect

Exit codes: 0 stopped by a signal, 1 failed (start it again), 2 invalid flags or variables.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator; return the exit code."""
    flags = vars(_parser().parse_args(arguments))
    environment = dict(os.environ)
    environment |= {name: value for name, value in _as_variables(flags).items() if value}
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
        description="Kubernetes operator for LLMProxies.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="namespace to watch; may be repeated. Default: all (OPERATOR_WATCH_NAMESPACES)",
    )
    add("--proxy-image", metavar="IMAGE", help="default image of proxies (OPERATOR_PROXY_IMAGE)")
    add(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="elect a leader among the replicas by a Lease (OPERATOR_LEADER_ELECTION, default: yes)",
    )
    add(
        "--health-port",
        metavar="PORT",
        help="port of /healthz, /readyz and /metrics (OPERATOR_METRICS_LISTEN_PORT, default: 8080)",
    )
    add("--log-level", choices=LOG_LEVELS, help="OPERATOR_LOG_LEVEL, default: INFO")
    return parser


def _as_variables(flags: dict[str, object]) -> dict[str, str]:
    elect = flags["leader_elect"]
    namespaces = flags["namespace"]
    return {
        "OPERATOR_WATCH_NAMESPACES": ",".join(namespaces) if isinstance(namespaces, list) else "",
        "OPERATOR_PROXY_IMAGE": str(flags["proxy_image"] or ""),
        "OPERATOR_LEADER_ELECTION": "" if elect is None else str(elect).lower(),
        "OPERATOR_METRICS_LISTEN_PORT": str(flags["health_port"] or ""),
        "OPERATOR_LOG_LEVEL": str(flags["log_level"] or ""),
    }


if __name__ == "__main__":
    sys.exit(main())
