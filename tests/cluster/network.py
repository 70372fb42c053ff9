"""The one cable between the host and the node's network namespace.

The namespace has no name and no file: it lives as long as a process of the node does, and the
cable goes with it. Nothing of the host's rules, routes or files is changed beside the cable.
"""

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError
from .progress import output, run, wait_until

POOL = ipaddress.IPv4Network("172.31.77.0/24")
# Wider routes than this are ways out (a default route, a VPN's halves of it), not networks in use.
WIDEST_PREFIX = 8
PEER = "eth0"


@dataclass(frozen=True, slots=True)
class Cable:
    """Both ends of the cable: the host's interface and the two addresses."""

    link: str
    subnet: ipaddress.IPv4Network

    @property
    def host(self) -> str:
        """The host's address."""
        return str(self.subnet[1])

    @property
    def node(self) -> str:
        """The node's address, where the API server answers."""
        return str(self.subnet[2])


def free_subnet(used: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first network of four addresses that overlaps nothing in use on this host."""
    taken = list(used)
    for subnet in POOL.subnets(new_prefix=30):
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise ClusterError(f"every network in {POOL} is in use on this host (see `ip route`)")


def used_networks() -> list[ipaddress.IPv4Network]:
    """Every IPv4 network that the host has an address in or a route to."""
    routes = json.loads(output(["ip", "-j", "-4", "route", "show", "table", "all"]) or "[]")
    words = [route.get("dst", "default") for route in routes]
    networks = [ipaddress.IPv4Network(word) for word in words if word != "default"]
    return [network for network in networks if network.prefixlen > WIDEST_PREFIX]


def link_exists(link: str) -> bool:
    """Whether the host's end of the cable is there."""
    return Path("/sys/class/net", link).exists()


def attach(cable: Cable, pid: int) -> None:
    """Lay the cable into the network namespace of a process and bring up the host's end."""
    run(["ip", "link", "add", cable.link, "type", "veth", "peer", "name", PEER, "netns", str(pid)])
    run(["ip", "address", "add", f"{cable.host}/30", "dev", cable.link])
    run(["ip", "link", "set", cable.link, "up"])


def lay(cable: Cable, pid: int) -> bool:
    """Lay the cable once the process has left the host's network namespace; whether it was."""
    own, theirs = (Path(f"/proc/{who}/ns/net") for who in ("self", pid))
    if not theirs.exists() or own.readlink() == theirs.readlink():
        return False
    attach(cable, pid)
    return True


def detach(link: str) -> None:
    """Remove the cable; the kernel may have done so with the namespace, a moment later."""
    if link_exists(link):
        output(["ip", "link", "delete", link])
    wait_until(f"network link {link} removed", lambda: not link_exists(link), timeout_s=10, every_s=0.1)
