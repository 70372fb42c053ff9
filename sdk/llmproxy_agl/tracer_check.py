"""Check of the OTLP exporter that Agent-Lightning's own tracers use, `emit_reward` among them."""

from importlib import metadata

EXPORTER = "opentelemetry-exporter-otlp-proto-http"
TOO_NEW = (1, 45)
"""Agent-Lightning 0.3.0 sets the address of an exporter after its creation; from this version on it has no effect."""


def exporter_problem() -> str:
    """Return the problem with the installed exporter and what to do, empty if there is none."""
    try:
        version = metadata.version(EXPORTER)
    except metadata.PackageNotFoundError:
        return ""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < TOO_NEW:
        return ""
    return (
        f"{EXPORTER} {version} does not send to the store what Agent-Lightning's tracers record: rewards of "
        f"emit_reward are lost, and each span takes seconds: pip install '{EXPORTER}<{TOO_NEW[0]}.{TOO_NEW[1]}'"
    )
