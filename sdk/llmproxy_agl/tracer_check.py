"""Whether what Agent-Lightning's own tracers send, `emit_reward` with it, can reach the store."""

from importlib import metadata

EXPORTER = "opentelemetry-exporter-otlp-proto-http"
TOO_NEW = (1, 45)
"""Agent-Lightning 0.3.0 sets the address of an exporter after it was made; from here on that is not looked at."""


def trouble() -> str:
    """Return what is lost with the packages that are installed, and the way out; nothing if all is well."""
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
