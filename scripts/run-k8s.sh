#!/bin/sh
# Runs one job in the current cluster of kubectl and prints its log; the last line is the value.
#
#     SCENARIO=fib scripts/run-k8s.sh
#
# From the environment: SCENARIO=add|fib|affine (fib), NAMESPACE (wasmdrop), IMAGE (wasmdrop),
# TIMEOUT in seconds (120). Exit status: 0 success, 1 the job failed, 2 usage error.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
scenario=${SCENARIO:-fib}
namespace=${NAMESPACE:-wasmdrop}
image=${IMAGE:-wasmdrop}
case $scenario in
add | fib | affine) ;;
*)
    echo "SCENARIO: expected add, fib or affine, got '$scenario'" >&2
    exit 2
    ;;
esac

k() {
    kubectl --namespace "$namespace" "$@"
}

if [ "$namespace" = wasmdrop ]; then
    kubectl apply -f "$root/k8s/namespace.yaml" >&2
fi
k apply -f "$root/k8s/modules.yaml" >&2
# The template of a job can't be changed, so an earlier job must be deleted.
k delete job wasmdrop-run --ignore-not-found >&2
input=$(tr -d '\n' <"$root/examples/$scenario/input.json")
sed -e "s|/mnt/wasm/fib\.wasm|/mnt/wasm/$scenario.wasm|" -e "s|image: wasmdrop\$|image: $image|" \
    -e "s|^    {\"entry\".*|    $input|" "$root/k8s/job.yaml" | k apply -f - >&2

left=${TIMEOUT:-120}
ended=
# Not `kubectl wait`, which waits for one condition only.
while [ -z "$ended" ] && [ "$left" -gt 0 ]; do
    ended=$(k get job wasmdrop-run \
        -o 'jsonpath={.status.conditions[?(@.status=="True")].type}')
    case $ended in *Complete* | *Failed*) break ;; esac
    ended=
    left=$((left - 1))
    sleep 1
done
k logs job/wasmdrop-run
case $ended in
*Complete*) ;;
*)
    echo "the job ${ended:-did not end in time}" >&2
    exit 1
    ;;
esac
