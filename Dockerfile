# The image of wasmdrop: Python and the daemon, nothing else; the compiler stays in the build stage.
# Build it with scripts/run-docker.sh or
#
#     docker build -t wasmdrop .
#
# Runs as user 65532, with a read-only root file system and without any capability; see docs/deploy/container.md.
# Not root, so jobs run as the daemon's own user, confined by Landlock, seccomp and limits.

# Python 3.14 on Debian 13, for amd64 and arm64. To refresh the digest:
#     docker buildx imagetools inspect docker.io/library/python:3.14-slim-trixie
ARG PYTHON_IMAGE=docker.io/library/python:3.14-slim-trixie@sha256:51dafde81dbdb6ebde285137a295cf18a47ca95234fe388a343719cb97305b3d
# The build stage needs a C compiler, or Debian's packages of one: the image has the native program.
ARG BUILD_IMAGE=${PYTHON_IMAGE}

FROM ${BUILD_IMAGE} AS build
# For builds without a network, where wheels lie in a directory that is mounted:
# --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheels --volume DIR:/wheels (buildah).
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN command -v cc \
    || { apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev; }
RUN python3 -m venv /opt/wasmdrop
COPY requirements-extras.lock ./
RUN /opt/wasmdrop/bin/pip install --quiet --require-hashes -r requirements-extras.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY daemon ./daemon
# The version of the package. Without it the package has a version that says that it is unknown: the
# builder does not get the history of the repository.
ARG VERSION
RUN if [ -n "$VERSION" ]; then export SETUPTOOLS_SCM_PRETEND_VERSION_FOR_WASMDROP="$VERSION"; fi \
    && /opt/wasmdrop/bin/pip install --quiet --no-deps --no-build-isolation . \
    && test -x /opt/wasmdrop/lib/python3*/site-packages/wasmdrop/sandbox/guest/native/zygote \
    && /opt/wasmdrop/bin/pip uninstall --quiet --yes pip setuptools setuptools-scm vcs-versioning packaging \
    && /opt/wasmdrop/bin/python -m compileall -q /opt/wasmdrop/lib \
    && mkdir -p /folders/mnt/wasm /folders/mnt/shared /folders/var/lib/wasmdrop \
    && chmod 1777 /folders/mnt/shared /folders/var/lib/wasmdrop \
    && mkdir /opt/wasmdrop/as-owner && ln -s as-owner /opt/wasmdrop/as-owner/wasmdrop

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/wasmdrop /opt/wasmdrop
COPY scripts/healthcheck.py /opt/wasmdrop/healthcheck.py
COPY scripts/as-owner.sh /opt/wasmdrop/as-owner/as-owner
COPY --from=build /folders /
# The folders are those of the first executor: /mnt/wasm, /mnt/shared. The state is a directory of
# its own below a volume in which any user can make one, so that --user may be anyone. The address
# is that of the container: what reaches it is the business of whoever publishes the port.
ENV PATH=/opt/wasmdrop/as-owner:/opt/wasmdrop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WASMDROP_STATE_DIR=/var/lib/wasmdrop/state \
    WASMDROP_HTTP=0.0.0.0:9464
USER 65532:65532
WORKDIR /mnt/shared
VOLUME /var/lib/wasmdrop
EXPOSE 9464
STOPSIGNAL SIGTERM
# Podman ignores this line unless it builds with --format docker. compose.yaml and
# scripts/run-docker.sh set the same check.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/wasmdrop/healthcheck.py"]
ENTRYPOINT ["wasmdrop"]
CMD ["serve"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="wasmdrop" \
    org.opencontainers.image.description="Runs WebAssembly modules dropped into a directory, each job in a fresh sandboxed process" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.source="https://github.com/wasmdrop/wasmdrop" \
    org.opencontainers.image.documentation="https://github.com/wasmdrop/wasmdrop/blob/main/docs/deploy/container.md" \
    org.opencontainers.image.version="${VERSION:-unknown}" \
    org.opencontainers.image.revision="${REVISION:-unknown}"
