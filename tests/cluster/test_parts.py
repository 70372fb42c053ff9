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

from cluster import kind_image, network, oci, pipconf, processes, runc_limited
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


def test_a_container_is_asked_for_no_capability_that_its_maker_lacks() -> None:
    every_but_resource = (1 << 41) - 1 - (1 << 24)
    mine = runc_limited.held(f"Name:\trunc\nCapEff:\t{every_but_resource:016x}\n")
    process = {
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"]},
        "oomScoreAdj": -999,
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1 << 20, "soft": 1 << 20}],
    }

    runc_limited.lessen(process, mine)

    assert process == {"capabilities": {"bounding": ["CAP_CHOWN"]}, "oomScoreAdj": 0, "rlimits": []}


def test_a_container_gets_all_it_asks_for_where_nothing_is_lacking() -> None:
    process = {"capabilities": {"bounding": ["CAP_SYS_RESOURCE"]}, "oomScoreAdj": -999, "rlimits": [1]}

    runc_limited.lessen(process, {"CAP_SYS_RESOURCE"})

    assert process == {"capabilities": {"bounding": ["CAP_SYS_RESOURCE"]}, "oomScoreAdj": -999, "rlimits": [1]}


def test_the_description_of_a_process_is_found_in_the_words_for_runc() -> None:
    assert runc_limited.file_of(["create", "--bundle", "/b", "--pid-file", "/p", "id"]) == Path("/b/config.json")
    assert runc_limited.file_of(["exec", "--process", "/x.json", "id"]) == Path("/x.json")
    assert runc_limited.file_of(["state", "id"]) is None


def test_kind_serves_its_api_where_the_engine_can_be_reached() -> None:
    config = kind_image.config("172.31.77.2")

    assert (config["networking"]["apiServerAddress"], config["networking"]["apiServerPort"]) == ("172.31.77.2", 6443)
    kinds = {json.loads(patch)["kind"] for patch in config["kubeadmConfigPatches"]}
    assert kinds == {"KubeletConfiguration", "KubeProxyConfiguration"}
