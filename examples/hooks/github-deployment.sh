#!/bin/sh
# Tells GitHub how a deployment ended: the newest deployment of the bad build's commit becomes `failure` when it was
# rolled back, `error` when a person is needed. For `post` and `escalate`. Needs curl and jq; builds must be commits.
#
#   [service.rollback.post]
#   exec = ["/usr/local/lib/load-watchdog/github-deployment.sh"]
#   user = "deploy"
#   environment = ["REPOSITORY=owner/name", "TOKEN_FILE=/etc/load-watchdog/github.token"]
#
# REPOSITORY   owner/name
# ENVIRONMENT  of the deployment, such as production; any when left out
# TOKEN_FILE   holds a token with leave to write deployments
# GITHUB_API   https://api.github.com when left out
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

: "${REPOSITORY:?set REPOSITORY to owner/name}"
: "${TOKEN_FILE:?set TOKEN_FILE to the file with the token}"
api=${GITHUB_API:-https://api.github.com}/repos/$REPOSITORY/deployments
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# The token goes through standard input: arguments can be read by everybody on the host.
call() {
    code=$(printf 'header = "Authorization: Bearer %s"\n' "$(cat -- "$TOKEN_FILE")" |
        curl --config - --silent --show-error --max-time 20 --proto =https \
            --header 'Accept: application/vnd.github+json' --header 'X-GitHub-Api-Version: 2022-11-28' \
            --output "$answer" --write-out '%{http_code}' "$@") || exit 75
    case $code in
        2??) ;;
        429 | 5??) exit 75 ;;
        *) fail "GitHub answered $code: $(jq -r '.message // empty' "$answer" 2>/dev/null)" ;;
    esac
}

call --get --data-urlencode "sha=$LOAD_WATCHDOG_BAD_BUILD" ${ENVIRONMENT:+--data-urlencode "environment=$ENVIRONMENT"} "$api"
id=$(jq -r '.[0].id // empty' "$answer")

if [ "$LOAD_WATCHDOG_TEST" = 1 ]; then
    echo "$REPOSITORY can be read; no status is set for a test"
    exit 0
fi
# A build that was not deployed through GitHub is nothing to fail for.
if [ -z "$id" ]; then
    echo "GitHub knows no deployment of $LOAD_WATCHDOG_BAD_BUILD"
    exit 0
fi
case $LOAD_WATCHDOG_OUTCOME in
    recovered) state=failure ;;
    *) state=error ;;
esac
# GitHub takes 140 characters.
body=$(jq -cn --arg state "$state" --arg outcome "$LOAD_WATCHDOG_OUTCOME" --arg reason "$LOAD_WATCHDOG_REASON" \
    '{state: $state, auto_inactive: false, description: ("load-watchdog: " + $outcome + ": " + $reason)[:140]}')
call --request POST --header 'Content-Type: application/json' --data-raw "$body" "$api/$id/statuses"
echo "deployment $id is $state"
