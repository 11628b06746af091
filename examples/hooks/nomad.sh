#!/bin/sh
# Reverts a Nomad job to the version that ran the good build. Needs nomad and jq.
#
#   exec = ["/usr/local/lib/load-watchdog/nomad.sh"]
#   user = "deploy"
#   environment = ["JOB=web", "NOMAD_ADDR=https://nomad.example:4646", "TOKEN_FILE=/etc/load-watchdog/nomad.token"]
#
# JOB         the job's id
# META        the key of the job's `meta` that holds the build; `build` when left out
# TOKEN_FILE  holds the ACL token (submit-job, read-job), where ACLs are on
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

: "${JOB:?set JOB to the id of the job}"
if [ -n "${TOKEN_FILE:-}" ]; then
    NOMAD_TOKEN=$(cat -- "$TOKEN_FILE")
    export NOMAD_TOKEN
fi
good=$LOAD_WATCHDOG_GOOD_BUILD

versions=$(nomad job history -json "$JOB") || exit 75
# The newest version of a build, and what runs now.
version=$(printf '%s' "$versions" | jq -r --arg meta "${META:-build}" --arg build "$good" \
    'map(select(.Meta[$meta] == $build)) | map(.Version) | max // empty')
serving=$(printf '%s' "$versions" | jq -r --arg meta "${META:-build}" 'max_by(.Version) | .Meta[$meta] // ""')

if [ "$LOAD_WATCHDOG_TEST" = 1 ]; then
    [ -n "$serving" ] || fail "job $JOB has no ${META:-build} in its meta"
    echo "would revert job $JOB, which runs $serving"
    exit 0
fi
if [ "$serving" = "$good" ]; then
    echo "job $JOB runs $good already"
    exit 0
fi
[ "$serving" = "$LOAD_WATCHDOG_BAD_BUILD" ] ||
    fail "job $JOB runs '$serving', neither $LOAD_WATCHDOG_BAD_BUILD nor $good: nothing is changed"
[ -n "$version" ] || fail "no version of job $JOB has ${META:-build} = $good"
# Without -detach it waits for the evaluation, and fails when that does.
nomad job revert "$JOB" "$version"
