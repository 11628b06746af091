#!/bin/sh
# Rolls a Capistrano-style folder back: flips `current` to releases/GOOD_BUILD in one step, then reloads gracefully.
#
#   exec = ["/usr/local/lib/load-watchdog/capistrano.sh"]
#   user = "deploy"
#   environment = ["DEPLOY_TO=/srv/web", "PID_FILE=/run/web/web.pid"]
#
# DEPLOY_TO   the folder with `releases` and `current`
# PID_FILE    of the server that is reloaded with SIGHUP (nginx, gunicorn, unicorn, php-fpm with USR2: set SIGNAL)
# SIGNAL      instead of HUP
# RELOAD_UNIT instead of PID_FILE: the systemd unit to reload; the hook's user needs leave to do that
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

good=$LOAD_WATCHDOG_GOOD_BUILD
bad=$LOAD_WATCHDOG_BAD_BUILD
case $good in
    '' | . | .. | -* | */*) fail "a build called '$good' cannot be a folder of releases" ;;
esac
cd -- "${DEPLOY_TO:?set DEPLOY_TO to the folder with releases and current}"
[ -L current ] || fail "$DEPLOY_TO/current is no symlink"
serving=$(basename -- "$(readlink -- current)")

if [ "$LOAD_WATCHDOG_TEST" = 1 ]; then
    [ -d releases ] || fail "$DEPLOY_TO/releases does not exist"
    [ -w . ] || fail "$(id -un) may not change $DEPLOY_TO/current"
    echo "would flip $DEPLOY_TO/current, which is $serving"
    exit 0
fi

[ -d "releases/$good" ] || fail "$DEPLOY_TO/releases/$good is gone: it cannot be brought back"
case $serving in
    "$good") echo "$good serves already" ;;
    "$bad")
        # A rename replaces the link in one step: no request finds it missing.
        next=current.$LOAD_WATCHDOG_INCIDENT
        ln -sfn -- "releases/$good" "$next"
        mv -fT -- "$next" current
        echo "flipped current from $bad to $good"
        ;;
    *) fail "$serving serves, neither $bad nor $good: somebody has deployed meanwhile, so nothing is changed" ;;
esac

if [ -n "${RELOAD_UNIT:-}" ]; then
    systemctl reload -- "$RELOAD_UNIT"
elif [ -n "${PID_FILE:-}" ]; then
    kill -s "${SIGNAL:-HUP}" "$(cat -- "$PID_FILE")"
else
    fail "set RELOAD_UNIT or PID_FILE, or remove the reload for a server that needs none"
fi
echo "reloaded"
