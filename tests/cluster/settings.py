"""What the parts of a node are told: their configuration files and their command lines.

Nothing here starts or writes anything, but for `write_files`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import build, packages
from .network import PEER, Cable
from .pki import Keys
from .places import Places

POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
DNS_IP = "10.96.0.10"
PAUSE = "localhost/llmproxy-pause:1"
ETCD = "http://127.0.0.1:2379"
# Kernel settings that the kubelet insists on. They are the host's: the node sees files that say so.
KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A node about to be started."""

    places: Places
    cable: Cable
    keys: Keys

    @property
    def folder(self) -> Path:
        """Its state."""
        return self.places.node

    def kubernetes(self, name: str) -> str:
        """Path of a program of Kubernetes."""
        return str(build.program(self.places, build.KUBERNETES, name))


def kubelet(node: Node) -> dict[str, Any]:
    """The kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": node.keys.crt("ca")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": node.keys.crt("kubelet"),
        "tlsPrivateKeyFile": node.keys.key("kubelet"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.places.cgroup}",
        "failSwapOn": False,
        "failCgroupV1": False,
        "oomScoreAdj": 0,
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": str(node.folder / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{node.places.containerd_socket}",
        "volumePluginDir": str(node.folder / "volume-plugins"),
        # Tests must not be evicted because the machine's disk is full of other things.
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "registerNode": True,
    }


def containerd(node: Node, *, snapshotter: str, cni_folder: str) -> str:
    """containerd's configuration; every folder it writes to lies below the node's."""
    folder = node.folder / "containerd"
    return f"""version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{node.places.containerd_socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true # else no pod starts where root lacks CAP_SYS_RESOURCE
  enable_criu = false
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{cni_folder}"]
    conf_dir = "{node.folder}/cni"
"""


def pod_network(addresses: Path) -> dict[str, Any]:
    """The CNI configuration: each pod on a cable of its own, so that all traffic is routed."""
    address = {
        "type": "host-local",
        "dataDir": str(addresses),
        "ranges": [[{"subnet": POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    ptp = {"type": "ptp", "ipMasq": False, "ipam": address}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "llmproxy-tests", "plugins": [ptp, ports]}


AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    # Who wrote what: enough to prove that a controller is quiet. Reads and the node's own
    # heartbeats would only bury it.
    "rules": [
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "None", "userGroups": ["system:nodes"]},
        {"level": "None", "resources": [{"group": "coordination.k8s.io"}, {"group": "events.k8s.io"}]},
        {"level": "Metadata"},
    ],
}


def write_files(node: Node, *, snapshotter: str) -> None:
    """Write every configuration file of the node into its folder."""
    folder, server = node.folder, f"https://{node.cable.node}:6443"
    for name in ("log", "etcd", "cni", "containerd", "var-lib", "var-log", "kernel", "volume-plugins"):
        (folder / name).mkdir()
    plugin = packages.find("ptp")
    assert plugin is not None  # packages.ensure came before
    settings = containerd(node, snapshotter=snapshotter, cni_folder=str(Path(plugin).parent))
    (folder / "containerd.toml").write_text(settings)
    (folder / "cni" / "10-pods.conflist").write_text(json.dumps(pod_network(folder / "addresses")))
    (folder / "kubelet.json").write_text(json.dumps(kubelet(node)))
    (folder / "audit.json").write_text(json.dumps(AUDIT))
    (folder / "resolv.conf").write_text("")
    for name in ("admin", "controller-manager", "scheduler", "kubelet", "proxy"):
        (folder / f"{name}.conf").write_text(node.keys.kubeconfig(name, server))
    for name, value in KERNEL.items():
        (folder / "kernel" / name.replace("/", "-")).write_text(f"{value}\n")


def plan(node: Node) -> dict[str, Any]:
    """The supervisor's plan: what to hide, which network to join, what to start in which order."""
    folder = node.folder
    binds = {
        "/var/lib": str(folder / "var-lib"),
        "/var/log": str(folder / "var-log"),
    }
    for name in KERNEL:
        if Path("/proc/sys", name).exists():
            binds[f"/proc/sys/{name}"] = str(folder / "kernel" / name.replace("/", "-"))
    network = {"peer": PEER, "address": node.cable.node, "gateway": node.cable.host}
    return {"binds": binds, "network": network, "parts": [*_control_plane(node), *_worker(node)]}


def _part(name: str, argv: list[str], *, ready: list[str] | None = None) -> dict[str, Any]:
    return {"name": name, "argv": argv, "env": {}, "ready": ready}


def _control_plane(node: Node) -> list[dict[str, Any]]:
    folder = node.folder
    # RBAC is there once /readyz answers: the controllers start after it.
    readyz = [node.kubernetes("kubectl"), "--kubeconfig", f"{folder}/admin.conf", "get", "--raw", "/readyz"]
    return [
        _part("etcd", _etcd(node)),
        _part("apiserver", _apiserver(node), ready=readyz),
        _part("controller-manager", _controller_manager(node)),
        _part("scheduler", [node.kubernetes("kube-scheduler"), *_own_kubeconfig(node, "scheduler")]),
    ]


def _worker(node: Node) -> list[dict[str, Any]]:
    folder, containers = node.folder, build.CONTAINERD
    ctr = str(build.program(node.places, containers, "ctr"))
    runtime = str(build.program(node.places, containers, "containerd"))
    shims = str(containers.folder(node.places))
    containerd_part = _part(
        "containerd",
        [runtime, "--config", str(folder / "containerd.toml")],
        ready=[ctr, "--address", str(node.places.containerd_socket), "version"],
    )
    containerd_part["env"] = {"PATH": f"{shims}:{packages.SEARCH_PATH}"}
    proxy = [node.kubernetes("kube-proxy"), "--kubeconfig", f"{folder}/proxy.conf"]
    limits = ["--conntrack-max-per-core", "0", "--conntrack-min", "0"]  # the host's; not ours to set
    kubelet_part = _part("kubelet", _kubelet(node))
    kubelet_part["env"] = {"PATH": packages.SEARCH_PATH}
    proxy_part = _part(
        "kube-proxy",
        [*proxy, "--cluster-cidr", POD_CIDR, "--hostname-override", "node", "--proxy-mode", "nftables", *limits],
    )
    proxy_part["env"] = {"PATH": packages.SEARCH_PATH}
    return [containerd_part, kubelet_part, proxy_part]


def _own_kubeconfig(node: Node, name: str) -> list[str]:
    file = str(node.folder / f"{name}.conf")
    flags = ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig")
    return [*(word for flag in flags for word in (flag, file)), "--leader-elect=false"]


def _etcd(node: Node) -> list[str]:
    listen = ["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]
    peers = ["--listen-peer-urls", "http://127.0.0.1:2380"]
    # A test cluster is thrown away, not recovered: no fsync.
    rest = ["--unsafe-no-fsync", "--log-level", "error", "--quota-backend-bytes", str(4 << 30)]
    program = node.kubernetes("server")  # the last word of etcd's import path
    return [program, "--data-dir", str(node.folder / "etcd"), *listen, *peers, *rest]


def _apiserver(node: Node) -> list[str]:
    keys, folder = node.keys, node.folder
    options = {
        "etcd-servers": ETCD,
        "advertise-address": node.cable.node,
        "secure-port": "6443",
        "service-cluster-ip-range": SERVICE_CIDR,
        "tls-cert-file": keys.crt("apiserver"),
        "tls-private-key-file": keys.key("apiserver"),
        "client-ca-file": keys.crt("ca"),
        "authorization-mode": "Node,RBAC",
        "allow-privileged": "true",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": str(keys.folder / "sa.pub"),
        "service-account-signing-key-file": keys.key("sa"),
        "kubelet-client-certificate": keys.crt("admin"),
        "kubelet-client-key": keys.key("admin"),
        "kubelet-preferred-address-types": "InternalIP",
        "requestheader-client-ca-file": keys.crt("front"),
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": keys.crt("front-client"),
        "proxy-client-key-file": keys.key("front-client"),
        "enable-aggregator-routing": "true",
        "audit-policy-file": str(folder / "audit.json"),
        "audit-log-path": str(folder / "log" / "audit.log"),
        "audit-log-maxsize": "100",
        "audit-log-maxbackup": "1",
    }
    return [node.kubernetes("kube-apiserver"), *(f"--{name}={value}" for name, value in options.items())]


def _controller_manager(node: Node) -> list[str]:
    keys = node.keys
    options = {
        "service-account-private-key-file": keys.key("sa"),
        "root-ca-file": keys.crt("ca"),
        "cluster-signing-cert-file": keys.crt("ca"),
        "cluster-signing-key-file": keys.key("ca"),
        "use-service-account-credentials": "true",
        "allocate-node-cidrs": "true",
        "cluster-cidr": POD_CIDR,
        "node-cidr-mask-size": "24",
        "flex-volume-plugin-dir": str(node.folder / "volume-plugins"),
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    program = node.kubernetes("kube-controller-manager")
    return [program, *_own_kubeconfig(node, "controller-manager"), *flags]


def _kubelet(node: Node) -> list[str]:
    folder = node.folder
    where = ["--root-dir", f"{folder}/kubelet", "--cert-dir", f"{folder}/kubelet-certs"]
    who = ["--hostname-override", "node", "--node-ip", node.cable.node]
    how = ["--config", f"{folder}/kubelet.json", "--kubeconfig", f"{folder}/kubelet.conf", "-v", "2"]
    return [node.kubernetes("kubelet"), *how, *where, *who]
