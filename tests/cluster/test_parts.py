"""The parts of the cluster's tooling that can be tried without a cluster."""

import io
import ipaddress
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cluster import network, oci, pipconf, processes
from cluster.errors import ClusterError


def test_the_first_free_subnet_is_taken() -> None:
    assert str(network.free_subnet([])) == "172.31.77.0/30"


def test_a_subnet_in_use_is_passed_over() -> None:
    used = [ipaddress.IPv4Network("172.31.77.0/29"), ipaddress.IPv4Network("10.0.0.0/8")]

    assert str(network.free_subnet(used)) == "172.31.77.8/30"


def test_no_free_subnet_is_an_error_that_names_the_pool() -> None:
    with pytest.raises(ClusterError, match=r"172\.31\.77\.0/24"):
        network.free_subnet([ipaddress.IPv4Network("172.31.0.0/16")])


def test_an_image_archive_holds_the_program_and_its_name(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"a program")
    archive = tmp_path / "image.tar"

    oci.write_archive(archive, image="localhost/pause:1", program=program)

    def blob(digest: str) -> bytes:
        return read(f"blobs/sha256/{digest.removeprefix('sha256:')}")

    with tarfile.open(archive) as files:

        def read(name: str) -> bytes:
            file = files.extractfile(name)
            assert file is not None
            return file.read()

        entry = json.loads(read("index.json"))["manifests"][0]
        manifest = json.loads(blob(entry["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))
        layer = blob(manifest["layers"][0]["digest"])
    with tarfile.open(fileobj=io.BytesIO(layer)) as root:
        member = root.getmember("pause")
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/pause:1"
    assert config["config"]["Entrypoint"] == ["/pause"]
    assert (member.mode, member.size) == (0o755, len(b"a program"))


def test_only_processes_of_the_same_node_are_ended(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen(sleep, env=os.environ | {processes.MARK: str(tmp_path / "node")})
    other = subprocess.Popen(sleep, env=os.environ | {processes.MARK: str(tmp_path / "node2")})

    ended = processes.end_all(tmp_path / "node")

    assert (ended, ours.wait(5), other.poll()) == (1, -9, None)
    other.kill()
    other.wait()


def test_a_build_gets_the_index_of_the_host_but_none_of_its_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://packages.test/simple\nfind-links = /somewhere\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    monkeypatch.setenv("PIP_CERT", str(config))

    lines = pipconf.text().splitlines()

    assert "index-url = https://packages.test/simple" in lines
    assert "timeout = 7" in lines
    assert f"cert = {pipconf.INSIDE}" in lines
    assert not [line for line in lines if "find-links" in line]
