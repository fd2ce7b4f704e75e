# ossfs in a container: docs/installing.md has the `docker run` line, and what the mount needs of the host.
#
#   docker build -t ossfs .
#
# Debian's own security updates are what is wanted, so no version is pinned (hadolint's DL3008).
# hadolint global ignore=DL3008

FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc libc6-dev libfuse3-dev pkg-config python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
# crcmod and oss2 come as source: without wheel and setuptools, crcmod would be built without its C extension.
RUN python3 -m venv /opt/ossfs \
    && /opt/ossfs/bin/pip install --no-cache-dir --upgrade pip setuptools wheel
WORKDIR /src
COPY pyproject.toml MANIFEST.in README.md CHANGELOG.md LICENSE ./
COPY docs docs
COPY man man
COPY systemd systemd
COPY ossfs ossfs
RUN /opt/ossfs/bin/pip install --no-cache-dir '.[credentials,metrics]' \
    && /opt/ossfs/bin/python -W ignore -c 'import crcmod._crcfunext, oss2, pyfuse3' \
    && /opt/ossfs/bin/pip uninstall -y pip setuptools wheel

FROM debian:bookworm-slim
# fuse3: fusermount3, with which users other than root mount.  It reads /etc/mtab, which is not everywhere.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates fuse3 libfuse3-3 python3 tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && ln -sf /proc/self/mounts /etc/mtab \
    && echo user_allow_other >>/etc/fuse.conf \
    && useradd --create-home --uid 1000 ossfs \
    && install -d -o ossfs -g ossfs /mnt/bucket
COPY --from=build /opt/ossfs /opt/ossfs
RUN ln -s /opt/ossfs/bin/ossfs /usr/local/bin/ossfs && ossfs --version
# Unmounts in order, once everything is in the bucket: give `docker stop` time for that.
STOPSIGNAL SIGTERM
ENTRYPOINT ["ossfs"]
CMD ["--help"]
