# The service: API, workers and management commands in one image.
#
# Where the public package index is not what pip is to use, its settings are passed on:
#   docker build --build-arg PIP_INDEX_URL --build-arg PIP_EXTRA_INDEX_URL .
# The image's history shows them to whoever has the image: no password belongs there. Where no
# registry has the base, another is named in its place: --build-arg BASE_IMAGE=debian:trixie-slim.
ARG BASE_IMAGE=debian:trixie-slim@sha256:a29215f6a35e51e22adffa17f89e9d2ef06214e64a2bad10d765c46aea49f11f
FROM ${BASE_IMAGE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

# A number of its own, so that a volume keeps its owner whatever the image is built from.
RUN useradd --uid 10002 --home-dir /var/lib/code-executor --no-create-home code-executor \
    && install -d -m 0700 -o code-executor -g code-executor /var/lib/code-executor

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST

WORKDIR /app
COPY requirements.txt ./
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
        --require-hashes -r requirements.txt

COPY . ./
ENV PATH=/opt/venv/bin:$PATH \
    DATA_DIR=/var/lib/code-executor \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN python -m compileall -q . \
    && SECRET_KEY=not-used-after-this python manage.py collectstatic --no-input --verbosity=0

USER code-executor
EXPOSE 8000
ENTRYPOINT ["/app/scripts/container-entrypoint"]
CMD ["python", "manage.py", "run_api"]
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ.get(\"API_PORT\", 8000)}/api/v1/health/ready', timeout=8)"]
