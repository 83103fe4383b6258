#!/bin/sh
# Runs wasmdrop in a container: one job, and prints its result, or the daemon.
#
#     scripts/run-docker.sh            run one job: host/shared/input.json, else ENTRY and ARGS_JSON
#     scripts/run-docker.sh --serve    run the daemon on host/wasm and host/shared until Ctrl-C
#     scripts/run-docker.sh --help     show this text
#
# Needs Docker, or Podman installed as `docker`. The container runs as the owner of the shared folder;
# if that is root, user 65532 gets the folder. The last line is the value, or the JSON line if
# OUTPUT_PATH ends in .json. Exit statuses are those of `wasmdrop run`. From the environment:
#   SCENARIO=add|fib|affine   first copy that example's input, and its module if it is built
#   SKIP_BUILD=1              use the existing image
#   IMAGE                     name of the image (wasmdrop)
#   WASM_HOST_DIR, SHARED_HOST_DIR   folders instead of host/wasm and host/shared
#   MEMORY                    memory limit of the container (4g)
#   ENTRY, ARGS_JSON, ADD_X, ADD_Y, TIMEOUT_SEC, WASM_PATH, INPUT_PATH, OUTPUT_PATH, and names that
#   begin with ARG_ or WASMDROP_: as in docs/configuration.md, with paths inside the container
# end of the help
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
image=${IMAGE:-wasmdrop}
wasm=${WASM_HOST_DIR:-$root/host/wasm}
shared=${SHARED_HOST_DIR:-$root/host/shared}

serve=
case ${1:-} in
'') ;;
--serve) serve=1 ;;
-h | --help)
    sed -n '2,/^# end of the help/ { /^# end/d; s/^# \{0,1\}//; p; }' "$0"
    exit 0
    ;;
*)
    echo "usage: $0 [--serve | --help]" >&2
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

# Root starts the container, to become the owner of the shared folder: see scripts/as-owner.sh. On a
# host with SELinux, `z` lets containers use the folders.
set -- --rm --init --read-only --cap-drop ALL --cap-add CHOWN --cap-add KILL --cap-add SETGID \
    --cap-add SETPCAP --cap-add SETUID --security-opt no-new-privileges \
    --pids-limit 1024 --memory "${MEMORY:-4g}" --user 0:0 --env AS_OWNER_OF=/mnt/shared \
    --volume "$wasm:/mnt/wasm:ro,z" --volume "$shared:/mnt/shared:z" \
    --tmpfs "/tmp:mode=1777"
for name in $(env | sed -n 's/^\(ENTRY\|ARGS_JSON\|ADD_X\|ADD_Y\|TIMEOUT_SEC\|WASM_PATH\|INPUT_PATH\|OUTPUT_PATH\|ARG_[0-9]*\|WASMDROP_[A-Z_]*\)=.*/\1/p'); do
    set -- "$@" --env "$name"
done

if [ -n "$serve" ]; then
    # The journal outlives the container. It belongs to one user, who is part of the volume's name. The
    # health check is that of the Dockerfile, which Podman's image format does not keep.
    user=$(stat -c %u "$shared" 2>/dev/null || id -u)
    [ "$user" != 0 ] || user=65532
    exec docker run "$@" --publish 127.0.0.1:9464:9464 \
        --health-cmd "python -I -S /opt/wasmdrop/healthcheck.py" --health-interval 10s \
        --health-timeout 5s --health-start-period 10s --health-retries 3 \
        --volume "wasmdrop-state-$user:/var/lib/wasmdrop" "$image" serve
fi
exec docker run "$@" --network none --env WASMDROP_STATE_DIR=/tmp/wasmdrop "$image" run
