#!/usr/bin/env bash
# Installs what tests/deploy needs on Debian 12, as root: container engine, booted systemd, linters.
# A second run finds all in place and changes nothing.
set -euo pipefail

missing=()
for package in podman buildah crun debootstrap systemd-container shellcheck; do
    state=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install --yes --no-install-recommends "${missing[@]}"
fi
