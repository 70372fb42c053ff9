"""Compiles what every request passes through, and every span, with mypyc: the same sources, as extension modules in C.

    python compile_llmproxy.py                 in the checkout: into build/compiled/KEY, which is told; once per KEY
    python compile_llmproxy.py --out FOLDER    anywhere: into FOLDER; with --or-copy the sources, if need be

The outcome is a whole copy of the package with the extension modules beside the sources that they were made of, to be
put on PYTHONPATH: Python takes an extension module before a source of the same name. KEY is a hash of all sources, of
this file and of the interpreter, so that what was compiled from other sources is never run. Nothing is compiled in the
checkout itself: who edits a module there runs what they edit. Without a C compiler or Python's headers one line says
so. In the checkout everything then runs from the sources; with --out it is an error, unless --or-copy is given: an
image without compiled modules is built by `--build-arg PURE_PYTHON=yes` only.
"""

import argparse
import contextlib
import hashlib
import io
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "llmproxy"
COMPILED = Path(__file__).parents[1] / "build" / "compiled"
FOLDERS = {
    "gateway": "metrics",
    "gateway/adapters": "anthropic base registry request_body responses",
    "gateway/http": "client exchange pool routing server",
    "gateway/limits": "headers limiter",
    "gateway/limits/local": "counters queue transfer window",
    "gateway/limits/store": "lease_limiter leases",
    "gateway/requests": "app attempts context fallback handler response retry_policy token_bound upstream_response",
    "gateway/shipping": "shipper_client",
    "gateway/upstreams": "balancer deployments model_index",
    "protocols": "passthrough sse tool_calls translated_stream",
    "protocols/anthropic_to_openai": "stream",
    "protocols/openai_to_anthropic": "stream",
    "protocols/responses_to_openai": "stream",
    "shipper/spans": "agent_lightning attributes exchange otel_genai otlp",
}
MODULES = tuple(f"{folder}/{name}.py" for folder, names in FOLDERS.items() for name in names.split())
"""All that are compiled. Not errors, whose attributes of classes are read; not types that JSON is decoded into."""

MYPY = """
[mypy]
ignore_missing_imports = true
[mypy-httptools.*]
follow_imports = skip
"""
"""A compiled module believes annotations. Those of httptools say bytes where there may be None: they are not read."""


def key() -> str:
    """Return what the outcome depends on, as a name."""
    digest = hashlib.sha256(f"{sys.version}{sysconfig.get_platform()}".encode())
    for path in (Path(__file__), *sorted(SOURCES.rglob("*.py"))):
        digest.update(str(path.relative_to(SOURCES.parent)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def folder() -> Path | None:
    """Return where the present sources are compiled, None when they are not."""
    there = COMPILED / key()
    return there if there.is_dir() else None


def missing() -> str:
    """Return what a compilation lacks here, empty when nothing."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler})"
    return "" if headers.exists() else f"there are no headers of Python ({headers})"


def compile_into(out: Path, python: str) -> None:
    """Put the package into *out*, compiled; raise RuntimeError with what went wrong.

    *python* is the interpreter whose packages the sources are checked against.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as workdir:
        shutil.copytree(SOURCES, Path(workdir, "llmproxy"), ignore=shutil.ignore_patterns("__pycache__"))
        output = io.StringIO()
        with contextlib.chdir(workdir), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                _build(python)
            except (Exception, SystemExit) as exc:  # setuptools ends the process when the compiler fails
                raise RuntimeError(f"{exc}\n{output.getvalue()[-4000:]}") from exc
        shutil.rmtree(Path(workdir, "build"))
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(workdir, out)
        Path(workdir).mkdir()  # for the end of the with


def _build(python: str) -> None:
    from mypyc.build import mypycify  # noqa: PLC0415 - not installed where nothing is compiled
    from setuptools import setup  # noqa: PLC0415

    Path("mypy.ini").write_text(MYPY)
    modules = [f"llmproxy/{name}" for name in MODULES]
    extensions = mypycify(
        ["--config-file=mypy.ini", f"--python-executable={python}", *modules],
        group_name="llmproxy",
        opt_level="3",
        debug_level="0",
        target_dir="build",
    )
    setup(name="llmproxy", packages=[], py_modules=[], ext_modules=extensions, script_args=["-q", "build_ext", "-i"])


def main() -> int:
    """Compile; return the exit code."""
    parser = argparse.ArgumentParser(description="Compile the gateway's request path with mypyc.")
    parser.add_argument("--out", type=Path, help="default: build/compiled/KEY of the checkout")
    parser.add_argument("--or-copy", action="store_true", help="where it cannot be compiled, copy the sources there")
    parser.add_argument("--packages-of", default=sys.executable, help="the interpreter whose packages it will run with")
    flags = parser.parse_args()
    out: Path = flags.out or COMPILED / key()
    if flags.out is None and out.is_dir():
        print(out)  # noqa: T201
        return 0
    why, code = missing(), int(flags.out is not None and not flags.or_copy)
    if not why:
        _say("compiling the gateway's request path: a minute, once for each version of the sources")
        if flags.out is None:
            shutil.rmtree(COMPILED, ignore_errors=True)
        try:
            compile_into(out, flags.packages_of)
        except RuntimeError as exc:
            why, code = f"mypyc failed: {exc}", int(not flags.or_copy)
    if not why:
        print(out)  # noqa: T201
        return 0
    _say(f"{'nothing is compiled' if code else 'the gateway stays pure Python'}: {why}")
    if flags.or_copy:
        shutil.copytree(SOURCES, out / "llmproxy", dirs_exist_ok=True)
    return code


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
