"""Certificates and kubeconfigs of one node, made anew whenever the node is."""

import base64
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from .progress import run

DAYS = "3650"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
SERVICE_IP = "10.96.0.1"


@dataclass(frozen=True, slots=True)
class Keys:
    """A folder of keys. NAME.crt and NAME.key belong together."""

    folder: Path

    def crt(self, name: str) -> str:
        """Path of a certificate."""
        return str(self.folder / f"{name}.crt")

    def key(self, name: str) -> str:
        """Path of a private key."""
        return str(self.folder / f"{name}.key")

    def authority(self, name: str) -> None:
        """Make a certificate authority."""
        out = ["-keyout", self.key(name), "-out", self.crt(name)]
        run(["openssl", "req", "-x509", *CURVE, "-days", DAYS, "-subj", f"/CN={name}", *out])

    def leaf(self, name: str, subject: str, *, names: str = "", authority: str = "ca") -> None:
        """Make a key and have it signed; `names` is a subjectAltName."""
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        lines = ["keyUsage=digitalSignature", "extendedKeyUsage=serverAuth,clientAuth"]
        extensions.write_text("\n".join([*lines, f"subjectAltName={names}" if names else ""]))
        run(["openssl", "req", *CURVE, "-subj", subject, "-keyout", self.key(name), "-out", request])
        signer = ["-CA", self.crt(authority), "-CAkey", self.key(authority)]
        serial = ["-set_serial", str(secrets.randbits(63))]
        out = ["-days", DAYS, "-extfile", str(extensions), "-out", self.crt(name)]
        run(["openssl", "x509", "-req", "-in", request, *signer, *serial, *out])

    def kubeconfig(self, name: str, server: str) -> str:
        """A kubeconfig (JSON, which is YAML) for the holder of a leaf, all in one text."""

        def text(path: str) -> str:
            return base64.b64encode(Path(path).read_bytes()).decode()

        user = {
            "client-certificate-data": text(self.crt(name)),
            "client-key-data": text(self.key(name)),
        }
        cluster = {"server": server, "certificate-authority-data": text(self.crt("ca"))}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "llmproxy-tests", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "llmproxy-tests", "context": {"cluster": "llmproxy-tests", "user": name}}],
            "current-context": "llmproxy-tests",
        }
        return json.dumps(config, indent=1)


def make(folder: Path, node_ip: str) -> Keys:
    """All keys of a node whose API server answers at `node_ip`."""
    folder.mkdir(mode=0o700)
    keys = Keys(folder)
    keys.authority("ca")
    keys.authority("front")
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    names = [*(f"DNS:{name}" for name in service), f"IP:{SERVICE_IP}", f"IP:{node_ip}", "IP:127.0.0.1"]
    keys.leaf("apiserver", "/CN=kube-apiserver", names=",".join(names))
    keys.leaf("admin", "/O=system:masters/CN=admin")
    keys.leaf("controller-manager", "/CN=system:kube-controller-manager")
    keys.leaf("scheduler", "/CN=system:kube-scheduler")
    keys.leaf("kubelet", "/O=system:nodes/CN=system:node:node", names=f"DNS:node,IP:{node_ip}")
    keys.leaf("proxy", "/CN=system:kube-proxy")
    keys.leaf("front-client", "/CN=front-proxy", authority="front")
    run(["openssl", "genrsa", "-out", keys.key("sa"), "2048"])
    run(["openssl", "rsa", "-in", keys.key("sa"), "-pubout", "-out", folder / "sa.pub"])
    return keys
