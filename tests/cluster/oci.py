"""Put static programs into an OCI image archive. No image tool and no registry is involved."""

import hashlib
import io
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
USER = "65532:65532"


def architecture() -> str:
    """This machine's architecture in the words of OCI."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


@dataclass(frozen=True, slots=True)
class Blob:
    """A piece of an image, named by its content."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """sha256, 64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()

    def descriptor(self) -> dict[str, Any]:
        """How other pieces refer to this one."""
        return {
            "mediaType": f"application/vnd.oci.image.{self.media_type}",
            "digest": f"sha256:{self.digest}",
            "size": len(self.data),
        }


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _json(media_type: str, value: dict[str, Any]) -> Blob:
    return Blob(media_type, json.dumps(value).encode())


def write_archive(target: Path, *, image: str, program: Path) -> None:
    """Write an image named `image` that holds and starts `program`, at the root of the image."""
    write_files(target, image=image, files={program.name: program}, start=f"/{program.name}", user=USER)


def write_files(target: Path, *, image: str, files: dict[str, Path], start: str, user: str = "0:0") -> None:
    """Write an image named `image` of programs, by their path in the image; it starts one of them."""
    layer = Blob("layer.v1.tar", _tar({name: path.read_bytes() for name, path in files.items()}, mode=0o755))
    config = _json(
        "config.v1+json",
        {
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": [start], "User": user},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}"]},
        },
    )
    manifest = _json(
        "manifest.v1+json",
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        },
    )
    named = manifest.descriptor() | {"annotations": {"io.containerd.image.name": image}}
    blobs = {f"blobs/sha256/{blob.digest}": blob.data for blob in (layer, config, manifest)}
    blobs["oci-layout"] = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()
    target.write_bytes(_tar(blobs, mode=0o644))
