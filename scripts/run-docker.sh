#!/bin/sh
# Runs wasmdrop in a container: one job, and prints its result, or the daemon.
#
#     scripts/run-docker.sh            run one job: host/shared/input.json, else ENTRY and ARGS_JSON
#     scripts/run-docker.sh --serve    run the daemon on host/wasm and host/shared until Ctrl-C
#
# The last line is the value, or the JSON line if OUTPUT_PATH ends in .json. Exit statuses are those
# of `wasmdrop run`. From the environment:
#   SCENARIO=add|fib|affine   first copy that example's input, and its module if it is built
#   SKIP_BUILD=1              use the existing image
#   IMAGE                     name of the image (wasmdrop)
#   WASM_HOST_DIR, SHARED_HOST_DIR   folders instead of host/wasm and host/shared
#   MEMORY                    memory limit of the container (4g)
#   ENTRY, ARGS_JSON, ADD_X, ADD_Y, TIMEOUT_SEC, WASM_PATH, INPUT_PATH, OUTPUT_PATH, and names that
#   begin with ARG_ or WASMDROP_: as in docs/configuration.md, with paths inside the container
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
image=${IMAGE:-wasmdrop}
wasm=${WASM_HOST_DIR:-$root/host/wasm}
shared=${SHARED_HOST_DIR:-$root/host/shared}

serve=
case ${1:-} in
'') ;;
--serve) serve=1 ;;
*)
    echo "usage: $0 [--serve]" >&2
    exit 2
    ;;
esac

mkdir -p "$wasm" "$shared"
wasm=$(cd "$wasm" && pwd)
shared=$(cd "$shared" && pwd)

case ${SCENARIO:-} in
'') ;;
add | fib | affine)
    cp "$root/examples/$SCENARIO/input.json" "$shared/.input.json"
    mv "$shared/.input.json" "$shared/input.json"
    for language in wat c ts go; do
        built=$root/examples/build/$SCENARIO-$language.wasm
        if [ -e "$built" ]; then
            cp "$built" "$wasm/.$SCENARIO.wasm"
            mv "$wasm/.$SCENARIO.wasm" "$wasm/$SCENARIO.wasm"
            export WASM_PATH="/mnt/wasm/$SCENARIO.wasm"
            break
        fi
    done
    ;;
*)
    echo "SCENARIO: expected add, fib or affine, got '$SCENARIO'" >&2
    exit 2
    ;;
esac

if [ -z "$serve" ] && [ -z "${WASM_PATH:-}" ] && [ ! -e "$wasm/module.wasm" ]; then
    echo "no module: put one at $wasm/module.wasm; or build the examples and set SCENARIO:" >&2
    echo "    make setup && .venv/bin/python examples/build.py --only fib/wat" >&2
    exit 2
fi

if [ "${SKIP_BUILD:-}" != 1 ]; then
    docker build --quiet --tag "$image" "$root" >&2
fi

# Results belong to the calling user. The daemon must not be root, because without capabilities it
# could not run jobs as another user.
user=$(id -u):$(id -g)
if [ "$(id -u)" = 0 ]; then
    user=65532:65532
    chown 65532:65532 "$shared"
fi

set -- --rm --init --read-only --cap-drop ALL --security-opt no-new-privileges \
    --pids-limit 1024 --memory "${MEMORY:-4g}" --user "$user" \
    --volume "$wasm:/mnt/wasm:ro" --volume "$shared:/mnt/shared" \
    --tmpfs "/tmp:mode=1777"
for name in $(env | sed -n 's/^\(ENTRY\|ARGS_JSON\|ADD_X\|ADD_Y\|TIMEOUT_SEC\|WASM_PATH\|INPUT_PATH\|OUTPUT_PATH\|ARG_[0-9]*\|WASMDROP_[A-Z_]*\)=.*/\1/p'); do
    set -- "$@" --env "$name"
done

if [ -n "$serve" ]; then
    # The journal outlives the container. It belongs to one user, who is part of the volume's name.
    exec docker run "$@" --publish 127.0.0.1:9464:9464 \
        --volume "wasmdrop-state-${user%:*}:/var/lib/wasmdrop" "$image" serve
fi
exec docker run "$@" --network none --env WASMDROP_STATE_DIR=/tmp/wasmdrop "$image" run
