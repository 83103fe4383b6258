#!/bin/sh
# Follows the result lines of a daemon in the cluster, without its log, until Ctrl-C.
#
#     scripts/tail-k8s.sh [deployment/wasmdrop | pod/NAME]
#     scripts/tail-k8s.sh --help     show this text
#
# From the environment:
#   NAMESPACE                 the namespace of the daemon (wasmdrop)
# end of the help
set -eu

case ${1:-} in
-h | --help)
    sed -n '2,/^# end of the help/ { /^# end/d; s/^# \{0,1\}//; p; }' "$0"
    exit 0
    ;;
-*)
    echo "usage: $0 [--help | deployment/NAME | pod/NAME]" >&2
    exit 2
    ;;
esac
if ! command -v kubectl >/dev/null; then
    echo "kubectl is not installed: https://kubernetes.io/docs/tasks/tools/" >&2
    exit 2
fi
kubectl --namespace "${NAMESPACE:-wasmdrop}" logs --follow --container wasmdrop \
    "${1:-deployment/wasmdrop}" | grep --line-buffered '^{"entry":'
