# A trainer's side for end-to-end tests: Agent-Lightning with its store, and the SDKs that agents use.
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS tools
ENV PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/pip

FROM ${BASE}
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
COPY requirements/install requirements/testkit.txt /opt/
RUN --mount=type=bind,from=tools,source=/opt/pip,target=/opt/pip \
    --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    /opt/install /opt/testkit.txt /opt/venv gpustat
USER 65532:65532
CMD ["python"]
