#!/usr/bin/env bash
# The rollback hook of load-watchdog: rollback.sh GOOD_BUILD
#
# Follows the hook contract: exit 0 when the good build serves, 75 to be tried again, anything else is a failure. A test
# of the hook (LOAD_WATCHDOG_TEST=1) is answered without touching the server.
set -euo pipefail

if [[ ${LOAD_WATCHDOG_TEST:-} == 1 ]]; then
    echo "rollback: test of the hook; would switch to ${1:-nothing}"
    exit 0
fi
echo "rollback: incident ${LOAD_WATCHDOG_INCIDENT:-none}: ${LOAD_WATCHDOG_BAD_BUILD:-?} -> ${1:-?} (${LOAD_WATCHDOG_REASON:-no reason given})"
exec "$(dirname "${BASH_SOURCE[0]}")/switch.sh" "$@"
