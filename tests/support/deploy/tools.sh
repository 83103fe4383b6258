#!/usr/bin/env bash
# Installs what tests/deploy needs on Debian 12, as root: container engine, booted systemd, linters.
# A second run finds all in place and changes nothing.
set -euo pipefail

missing=()
for package in podman catatonit buildah crun debootstrap systemd-container shellcheck; do
    state=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install --yes --no-install-recommends "${missing[@]}"
fi

# Of the package prometheus only the checker: the server, which installing would start, stays out.
if ! command -v promtool >/dev/null; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    # apt downloads as a user of its own, who must be able to write there.
    chmod 777 "$scratch"
    (cd "$scratch" && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; })
    dpkg-deb --fsys-tarfile "$scratch"/prometheus_*.deb | tar -x -C "$scratch" ./usr/bin/promtool
    install "$scratch/usr/bin/promtool" /usr/local/bin/promtool
fi
