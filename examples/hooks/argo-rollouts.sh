#!/bin/sh
# Aborts an Argo Rollout: traffic goes back to the stable ReplicaSet. Needs kubectl with its argo-rollouts plugin, and jq.
#
#   exec = ["/usr/local/lib/load-watchdog/argo-rollouts.sh"]
#   user = "deploy"
#   environment = ["ROLLOUT=web", "NAMESPACE=shop", "KUBECONFIG=/etc/load-watchdog/kubeconfig"]
#
# The rollout's spec still names the new version afterwards: put the old one back there too (in Git, where that is the
# source), or the next sync tries it again.
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

: "${ROLLOUT:?set ROLLOUT to the name of the rollout}"
namespace=${NAMESPACE:-default}

# The cluster's API may be away for a moment: ask to be called again.
status=$(kubectl get rollout "$ROLLOUT" --namespace "$namespace" --output json) || exit 75
stable=$(printf '%s' "$status" | jq -r '.status.stableRS // ""')
current=$(printf '%s' "$status" | jq -r '.status.currentPodHash // ""')
aborted=$(printf '%s' "$status" | jq -r '.status.abort // false')
[ -n "$stable" ] || fail "rollout $ROLLOUT has no stable ReplicaSet to go back to"

if [ "$LOAD_WATCHDOG_TEST" = 1 ]; then
    kubectl argo rollouts version >/dev/null || fail "kubectl has no plugin argo rollouts"
    echo "would abort rollout $ROLLOUT in $namespace, whose stable ReplicaSet is $stable"
    exit 0
fi
if [ "$aborted" = true ]; then
    echo "rollout $ROLLOUT is aborted already"
    exit 0
fi
if [ "$stable" = "$current" ]; then
    fail "rollout $ROLLOUT is fully promoted: there is nothing to abort; undo it by hand, or extend its steps so that
load-watchdog has its verdict before the last one"
fi
kubectl argo rollouts abort "$ROLLOUT" --namespace "$namespace"
