#!/bin/sh
# Runs one job in the current cluster of kubectl and prints its log; the last line is the value.
#
#     SCENARIO=fib scripts/run-k8s.sh
#     scripts/run-k8s.sh --help     show this text
#
# Applies k8s/namespace.yaml (only if NAMESPACE is wasmdrop), k8s/modules.yaml and k8s/job.yaml.
# Exit status: 0 success, 1 the job failed or did not end in time, 2 usage error. From the environment:
#   SCENARIO=add|fib|affine   the example to run (fib)
#   NAMESPACE                 an existing namespace (wasmdrop, which is made)
#   IMAGE                     name of the image in the cluster (wasmdrop)
#   TIMEOUT                   seconds until it gives up (120)
# end of the help
set -eu

case ${1:-} in
'') ;;
-h | --help)
    sed -n '2,/^# end of the help/ { /^# end/d; s/^# \{0,1\}//; p; }' "$0"
    exit 0
    ;;
*)
    echo "usage: $0 [--help]" >&2
    exit 2
    ;;
esac

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

case ${TIMEOUT:-120} in
*[!0-9]*)
    echo "TIMEOUT: expected seconds, got '$TIMEOUT'" >&2
    exit 2
    ;;
esac
if ! command -v kubectl >/dev/null; then
    echo "kubectl is not installed: https://kubernetes.io/docs/tasks/tools/" >&2
    exit 2
fi

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
