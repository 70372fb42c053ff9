# The two images. `docker build --target operator .` and `--target proxy .` work by themselves;
# `make images` also builds where no registry of images can be reached, on a base made from Debian
# packages. Any base with Python 3.11 or newer, its venv module and CA certificates will do.
# Optional build secrets: `pip` (a pip.conf) and `certificates` (a CA bundle it may name as
# /run/secrets/certificates). Neither ends in a layer.
ARG BASE=docker.io/library/python:3.13-slim-trixie
# Where the gateway is compiled: BASE, perhaps with a C compiler and Python's headers. They end in no image.
ARG COMPILER_BASE=${BASE}
# `--build-arg PURE_PYTHON=yes` has an image without compiled modules, where there is no C compiler. Without it a build
# that cannot compile fails: such a gateway takes nearly twice the time in Python.
ARG PURE_PYTHON=""

# --- What builds ---------------------------------------------------------------------------------
FROM ${BASE} AS tools
ENV PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/pip
COPY requirements/install /opt/install

FROM tools AS operator-packages
COPY requirements/operator.txt /opt/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates /opt/install /opt/operator.txt /opt/venv

FROM tools AS proxy-packages
COPY requirements/proxy.txt /opt/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates /opt/install /opt/proxy.txt /opt/venv

# litellm and what it brings, apart: gateway and shipper cannot import it even by mistake.
FROM tools AS translator-packages
COPY requirements/translator.txt /opt/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates /opt/install /opt/translator.txt /opt/translator

FROM tools AS operator-sources
COPY operator/llmproxy_api /app/llmproxy_api
COPY operator/llmproxy_operator /app/llmproxy_operator
# Of the proxy, the operator imports the contract document, the log format and the table of providers.
COPY proxy_image/llmproxy/__init__.py proxy_image/llmproxy/contract.py proxy_image/llmproxy/logs.py \
     proxy_image/llmproxy/providers.py /app/llmproxy/
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app

# The sources, and beside them extension modules of those that every request passes through.
FROM ${COMPILER_BASE} AS proxy-sources
ARG PURE_PYTHON
ENV PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/pip
COPY requirements/install requirements/compile.txt /opt/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates /opt/install /opt/compile.txt /opt/compile
COPY --from=proxy-packages /opt/venv /opt/venv
COPY proxy_image /src
RUN command -v cc >/dev/null \
 || (apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev) >/dev/null 2>&1 \
 || echo "no C compiler here, and no packages of one"
RUN /opt/compile/bin/python /src/compile_llmproxy.py --out /app ${PURE_PYTHON:+--or-copy} \
      --packages-of /opt/venv/bin/python \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /app

# --- What runs -----------------------------------------------------------------------------------
# The user has a number only, whichever it is made to be: a library that asks for its name gets it from USER.
FROM ${BASE} AS runtime
ENV USER=llmproxy \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /app
USER 65532:65532

FROM runtime AS operator
COPY --from=operator-packages /opt/venv /opt/venv
COPY --from=operator-sources /app /app
# Of a release: --build-arg VERSION=... REVISION=$(git rev-parse HEAD) SOURCE=<URL of the repository>
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="llmproxy-operator" \
      org.opencontainers.image.description="Runs LLM proxies on Kubernetes: the operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
ENTRYPOINT ["python", "-m", "llmproxy_operator"]

# Gateway and shipper run on /opt/venv, the translator on /opt/translator/bin/python.
FROM runtime AS proxy
COPY --from=translator-packages /opt/translator /opt/translator
COPY --from=proxy-packages /opt/venv /opt/venv
COPY --from=proxy-sources /app /app
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="llmproxy" \
      org.opencontainers.image.description="Runs LLM proxies on Kubernetes: gateway, shipper and translator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
ENTRYPOINT ["python", "-m", "llmproxy.gateway"]
