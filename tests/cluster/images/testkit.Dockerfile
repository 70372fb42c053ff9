# A trainer's side for end-to-end tests: Agent-Lightning with its store, and the SDKs that agents use.
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS packages
ENV PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/pip
COPY requirements/install /opt/install
COPY requirements/testkit.txt /opt/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates /opt/install /opt/testkit.txt /opt/venv gpustat

FROM ${BASE}
ENV USER=trainer \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    PYTHONPATH=/opt/llmproxy
COPY --from=packages /opt/venv /opt/venv
# The trainer's side of the project, which a trainer would install as llmproxy[agl].
COPY proxy_image/llmproxy/__init__.py proxy_image/llmproxy/providers.py /opt/llmproxy/llmproxy/
COPY operator/llmproxy_api /opt/llmproxy/llmproxy_api
COPY sdk/llmproxy_agl /opt/llmproxy/llmproxy_agl
USER 65532:65532
CMD ["python"]
