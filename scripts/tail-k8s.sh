#!/bin/sh
# Follows the result lines of a daemon in the cluster, without its log.
#
#     scripts/tail-k8s.sh [deployment/wasmdrop | pod/NAME]
#
# From the environment: NAMESPACE (wasmdrop).
set -eu
kubectl --namespace "${NAMESPACE:-wasmdrop}" logs --follow --container wasmdrop \
    "${1:-deployment/wasmdrop}" | grep --line-buffered '^{"entry":'
