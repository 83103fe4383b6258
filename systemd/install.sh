#!/bin/sh
# Installs wasmdrop on a host with systemd, or removes it. `make install-systemd` and
# `make uninstall-systemd` call it.
#
#     systemd/install.sh install|uninstall
#
# From the environment:
#   DESTDIR   root of a staged file system; the running system stays unchanged
#   PREFIX    directory of the program (/opt/wasmdrop), also in the units
#   INSTANCE  NAME: also install or remove the user, folders and settings of wasmdrop@NAME
#   PYTHON    the interpreter (python3): 3.11 or later, the same as on the target host
#   PURGE=1   with uninstall: also remove results, state and settings, of workers as well
set -eu

cd "$(dirname "$0")/.."
prefix=${PREFIX:-/opt/wasmdrop}
dest=${DESTDIR:-}
instance=${INSTANCE:-}
lib=$dest/usr/local/lib
man=$dest/usr/local/share/man/man1
drop_ins=$dest/usr/local/share/wasmdrop
etc=$dest/etc/wasmdrop

case $instance in
*[!a-z0-9_]*)
    echo "INSTANCE: expected lower-case letters, digits and _, got '$instance'" >&2
    exit 2
    ;;
config | wasmdrop | worker)
    echo "INSTANCE: expected a name other than config, wasmdrop and worker" >&2
    exit 2
    ;;
esac

# Runs a command on the running system, unless there is a DESTDIR.
on_host() {
    [ -n "$dest" ] || "$@"
}

# install_config NAME FILE: install the configuration file with the folders of one name, for its
# service and for commands of any user.
install_config() {
    [ -d "$etc" ] || install -d -m 755 "$etc"
    [ ! -e "$etc/$2" ] || return 0
    "$dest$prefix/bin/python" -I -m wasmdrop config --example --wasm-dir "/var/spool/$1/wasm" \
        --shared-dir "/var/spool/$1/shared" --state-dir "/var/lib/$1" >"$etc/.$2.new"
    chmod 644 "$etc/.$2.new"
    mv "$etc/.$2.new" "$etc/$2"
}

# install_named NAME INSTANCE CONFIG: install the user, folders and settings of one name.
install_named() {
    mkdir -p "$lib/sysusers.d" "$lib/tmpfiles.d"
    install_config "$1" "$3"
    sed "s/wasmdrop/$1/g" systemd/wasmdrop.sysusers >"$lib/sysusers.d/$1.conf"
    sed "s/wasmdrop/$1/g" systemd/wasmdrop.tmpfiles >"$lib/tmpfiles.d/$1.conf"
    if [ ! -e "$etc/$2.env" ]; then
        sed "s,/wasmdrop,/$1,g" systemd/wasmdrop.env >"$etc/$2.env"
        chmod 640 "$etc/$2.env"
    fi
    on_host systemd-sysusers "$1.conf"
    on_host systemd-tmpfiles --create "$1.conf"
}

uninstall_named() {
    on_host systemctl disable --now --quiet "$3.service" || true
    rm -f "$lib/sysusers.d/$1.conf" "$lib/tmpfiles.d/$1.conf"
    if [ "${PURGE:-}" = 1 ]; then
        rm -rf "$etc/$2.env" "$etc/${4:?}" "$dest/var/spool/$1" "$dest/var/lib/$1"
    fi
}

do_install() {
    rm -rf build
    "${PYTHON:-python3}" -m venv "$dest$prefix"
    "$dest$prefix/bin/python" -m pip install --quiet --require-hashes \
        -r requirements-extras.lock
    "$dest$prefix/bin/python" -m pip install --quiet --no-deps --no-build-isolation \
        --force-reinstall .
    set -- "$dest$prefix"/lib/python3*/site-packages/wasmdrop/sandbox/guest/native/zygote
    [ -x "$1" ] || echo "no native program, jobs run in the slower Python guest: install a C" \
        "compiler, then run this again" >&2
    # The first line of the script has the path where it was created.
    sed -i "1s,^#!$dest$prefix/,#!$prefix/," "$dest$prefix/bin/wasmdrop"
    mkdir -p "$dest/usr/local/bin" "$lib/systemd/system"
    ln -sfn "$prefix/bin/wasmdrop" "$dest/usr/local/bin/wasmdrop"
    mkdir -p "$man"
    install -m 644 docs/man/wasmdrop*.1 "$man"
    for unit in wasmdrop.service wasmdrop@.service wasmdrop-worker@.service; do
        sed "s,/opt/wasmdrop/,$prefix/,g" "systemd/$unit" >"$lib/systemd/system/$unit"
    done
    mkdir -p "$drop_ins"
    for drop_in in http signing-key fleet webhook; do
        install -m 644 "systemd/$drop_in.conf" "$drop_ins/$drop_in.conf"
    done
    install_named wasmdrop wasmdrop config.toml
    [ -z "$instance" ] || install_named "wasmdrop-$instance" "$instance" "$instance.toml"
    # The template needs the file of each instance, also of those that an older version installed.
    for conf in "$lib"/tmpfiles.d/wasmdrop-*.conf; do
        [ -e "$conf" ] || continue
        set -- "$(basename "$conf" .conf)"
        install_config "$1" "${1#wasmdrop-}.toml"
    done
    on_host systemctl daemon-reload
    echo "installed; start it with: systemctl enable --now wasmdrop${instance:+@$instance}"
}

do_uninstall() {
    if [ -n "$instance" ]; then
        uninstall_named "wasmdrop-$instance" "$instance" "wasmdrop@$instance" "$instance.toml"
        return
    fi
    uninstall_named wasmdrop wasmdrop wasmdrop config.toml
    on_host systemctl stop --quiet 'wasmdrop-worker@*.service' || true
    on_host systemctl disable --quiet wasmdrop-worker@.service || true
    for unit in wasmdrop.service wasmdrop@.service wasmdrop-worker@.service; do
        rm -f "$lib/systemd/system/$unit"
    done
    if [ "${PURGE:-}" = 1 ]; then
        rm -rf "$etc"/worker-*.env "$etc/worker.toml" "$dest"/var/lib/wasmdrop-worker-* "$dest"/var/lib/private/wasmdrop-worker-*
    fi
    rm -rf "$drop_ins"
    rm -f "$dest/usr/local/bin/wasmdrop" "$man"/wasmdrop.1 "$man"/wasmdrop-*.1
    if [ -e "$dest$prefix/pyvenv.cfg" ]; then # only a virtual environment, whatever PREFIX is
        rm -rf "$dest$prefix"
    fi
    rmdir "$etc" 2>/dev/null || true
    on_host systemctl daemon-reload
    [ "${PURGE:-}" = 1 ] || echo "kept: /etc/wasmdrop, /var/spool/wasmdrop, /var/lib/wasmdrop"
}

case ${1:-} in
install) do_install ;;
uninstall) do_uninstall ;;
*)
    echo "usage: $0 install|uninstall" >&2
    exit 2
    ;;
esac
