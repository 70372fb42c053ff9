"""The host's pip configuration in a form that a build inside an image can use.

Only what says where packages come from is taken over, as a secret of the build: it may hold the
address of an index with a password.
"""

import configparser
import os
from pathlib import Path

# pip's own names. find-links is left out: folders of the host do not exist in a build.
TAKEN = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
FILES = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
CERTIFICATE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy")
INSIDE = "/run/secrets/certificates"


def _from_files() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    own = os.environ.get("PIP_CONFIG_FILE")
    parser.read([*(Path(name).expanduser() for name in FILES), *([own] if own else [])])
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found.update(parser.items(section))
    return found


def _from_environment() -> dict[str, str]:
    names = (*TAKEN, "default-timeout")
    keys = {name: f"PIP_{name.upper().replace('-', '_')}" for name in names}
    found = {name: os.environ[key] for name, key in keys.items() if os.environ.get(key)}
    for variable in PROXY_VARIABLES:
        if os.environ.get(variable):
            found.setdefault("proxy", os.environ[variable])
    return found


def certificates() -> Path | None:
    """The bundle of certificate authorities that the host's pip trusts, if it names one."""
    named = [os.environ.get(variable) for variable in CERTIFICATE_VARIABLES]
    for path in [*named, _from_files().get("cert")]:
        if path and Path(path).is_file():
            return Path(path)
    return None


def text() -> str:
    """A pip.conf for the inside of a build."""
    found = _from_files() | _from_environment()
    if "default-timeout" in found:
        found.setdefault("timeout", found["default-timeout"])
    lines = [f"{name} = {' '.join(found[name].split())}" for name in TAKEN if name in found]
    if certificates():
        lines.append(f"cert = {INSIDE}")
    return "\n".join(["[global]", *lines, ""])
