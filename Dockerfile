# The image of wasmdrop: Python and the daemon, nothing else; the compiler stays in the build stage.
# Build it with scripts/run-docker.sh or
#
#     docker build -t wasmdrop .
#
# Runs as user 65532, with a read-only root file system and without any capability; see docs/deploy/container.md.
# Not root, so jobs run as the daemon's own user, confined by Landlock, seccomp and limits.

ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
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
RUN /opt/wasmdrop/bin/pip install --quiet --no-deps --no-build-isolation . \
    && test -x /opt/wasmdrop/lib/python3*/site-packages/wasmdrop/sandbox/guest/native/zygote \
    && /opt/wasmdrop/bin/pip uninstall --quiet --yes pip setuptools \
    && /opt/wasmdrop/bin/python -m compileall -q /opt/wasmdrop/lib \
    && mkdir -p /folders/mnt/wasm /folders/mnt/shared /folders/var/lib/wasmdrop \
    && chmod 1777 /folders/mnt/shared /folders/var/lib/wasmdrop

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/wasmdrop /opt/wasmdrop
COPY scripts/healthcheck.py /opt/wasmdrop/healthcheck.py
COPY --from=build /folders /
# The folders are those of the first executor: /mnt/wasm, /mnt/shared. The state is a directory of
# its own below a volume in which any user can make one, so that --user may be anyone. The address
# is that of the container: what reaches it is the business of whoever publishes the port.
ENV PATH=/opt/wasmdrop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WASMDROP_STATE_DIR=/var/lib/wasmdrop/state \
    WASMDROP_HTTP=0.0.0.0:9464
USER 65532:65532
WORKDIR /mnt/shared
VOLUME /var/lib/wasmdrop
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/wasmdrop/healthcheck.py"]
ENTRYPOINT ["wasmdrop"]
CMD ["serve"]
