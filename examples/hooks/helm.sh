#!/bin/sh
# Rolls a Helm release back to the revision whose app version is the good build. Needs helm and jq.
#
#   exec = ["/usr/local/lib/load-watchdog/helm.sh"]
#   user = "deploy"
#   timeout = "5m"
#   environment = ["RELEASE=web", "NAMESPACE=shop", "KUBECONFIG=/etc/load-watchdog/kubeconfig"]
#
# RELEASE   the release; its chart's appVersion is the build
# WAIT      how long to wait for the pods; keep it below the hook's timeout; 120s when left out
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

: "${RELEASE:?set RELEASE to the name of the release}"
namespace=${NAMESPACE:-default}
good=$LOAD_WATCHDOG_GOOD_BUILD

history=$(helm history "$RELEASE" --namespace "$namespace" --output json) || exit 75
# A revision that failed is never gone back to.
revision=$(printf '%s' "$history" | jq -r --arg build "$good" '
    map(select(.app_version == $build and (.status == "superseded" or .status == "deployed")))
    | map(.revision) | max // empty')
newest=$(printf '%s' "$history" | jq -r 'max_by(.revision) | .app_version + " " + .status')

if [ "$LOAD_WATCHDOG_TEST" = 1 ]; then
    echo "would roll release $RELEASE back, which is at $newest"
    exit 0
fi
case $newest in
    "$good deployed")
        echo "release $RELEASE is at $good already"
        exit 0
        ;;
    "$LOAD_WATCHDOG_BAD_BUILD "*) ;;
    *) fail "release $RELEASE is at '$newest', neither $LOAD_WATCHDOG_BAD_BUILD nor $good: nothing is changed" ;;
esac
[ -n "$revision" ] || fail "no revision of release $RELEASE has the app version $good"
helm rollback "$RELEASE" "$revision" --namespace "$namespace" --wait --timeout "${WAIT:-120s}"
