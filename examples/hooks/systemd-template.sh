#!/bin/sh
# Rolls back between instances of a systemd template unit, one per build (web@.service beside this file): starts the
# good build's instance, lets it serve by flipping a symlink, then stops the bad one's.
#
#   exec = ["/usr/local/lib/load-watchdog/systemd-template.sh"]
#   environment = ["TEMPLATE=web@.service", "SOCKETS=/run/web"]
#
# TEMPLATE  the template; its instances are named after builds
# SOCKETS   the folder in which each instance listens on BUILD.sock, and current.sock is what the proxy connects to
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

good=$LOAD_WATCHDOG_GOOD_BUILD
bad=$LOAD_WATCHDOG_BAD_BUILD
: "${TEMPLATE:?set TEMPLATE to the template unit, such as web@.service}"
: "${SOCKETS:?set SOCKETS to the folder of the sockets}"
case $good in
    '' | . | .. | -* | */*) fail "a build called '$good' cannot be an instance" ;;
esac
good_unit=$(systemd-escape --template="$TEMPLATE" -- "$good")
bad_unit=$(systemd-escape --template="$TEMPLATE" -- "$bad")

if [ "$LOAD_WATCHDOG_TEST" = 1 ]; then
    systemctl cat -- "$TEMPLATE" >/dev/null || fail "there is no $TEMPLATE"
    [ -w "$SOCKETS" ] || fail "$(id -un) may not change $SOCKETS/current.sock"
    echo "would start $good_unit and stop $bad_unit"
    exit 0
fi

# Returns once the unit is up: its Type=notify says so when it listens.
systemctl start -- "$good_unit"
systemctl is-active --quiet -- "$good_unit" || fail "$good_unit did not stay up"
[ -S "$SOCKETS/$good.sock" ] || fail "$good_unit is up but does not listen on $SOCKETS/$good.sock"

next=$SOCKETS/current.$LOAD_WATCHDOG_INCIDENT
ln -sfn -- "$good.sock" "$next"
mv -fT -- "$next" "$SOCKETS/current.sock"
echo "$good_unit serves"

# Ends gracefully: what is under way on old connections is finished within the unit's TimeoutStopSec=.
systemctl stop -- "$bad_unit"
echo "$bad_unit is stopped"
