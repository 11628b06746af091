#!/usr/bin/env bash
# Makes a release the one that serves, without one failed request:
#
#   switch.sh NAME
#
# 1. points the symlink at it, in one rename;
# 2. has gunicorn start a successor beside itself on the same listening socket (SIGUSR2);
# 3. waits until every worker of the successor has loaded the application;
# 4. ends the old master gracefully: its workers finish what they have begun.
#
# Run twice it does nothing the second time. Two runs at once take turns. Where the successor does not come up, the
# symlink goes back and the old release goes on serving.
# Exit: 0 done, 64 wrong call, 75 try again, 1 failed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run=$root/run
patience=30

say() { printf 'switch: %s\n' "$*"; }
fail() {
    printf 'switch: %s\n' "$2" >&2
    exit "$1"
}

(($# == 1)) || fail 64 "usage: switch.sh NAME"
name=$1
[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || fail 64 "'$name' is no release name"
[[ -f $root/releases/$name/REVISION ]] || fail 1 "no release $name under $root/releases"

alive() { [[ -n ${1:-} ]] && kill -0 "$1" 2>/dev/null; }
read_pid() { cat "$run/$1" 2>/dev/null || true; }
# Which release a process serves, as its working directory says.
release_of() { basename "$(readlink "/proc/$1/cwd" 2>/dev/null || echo none)"; }
# Live workers of a master that have loaded the application.
ready_workers() {
    local mark count=0
    for mark in "$run/ready.$1".*; do
        if alive "${mark##*.}"; then
            count=$((count + 1))
        fi
    done
    echo "$count"
}
point_at() {
    ln -sfn "releases/$1" "$root/current.new.$$"
    mv -T "$root/current.new.$$" "$root/current"
}
# wait_until SECONDS COMMAND...: until it succeeds, asked ten times a second.
wait_until() {
    local tries=$(($1 * 10))
    shift
    until "$@"; do
        ((tries-- > 0)) || return 1
        sleep 0.1
    done
}

exec 9>"$run/switch.lock"
flock -w "$patience" 9 || fail 75 "another switch has been running for $patience s"

# Ends a successor that is not to take over, its workers with it.
end_successor() {
    local pid=$1
    is_gone() { ! alive "$pid"; }
    kill -TERM "$pid" 2>/dev/null || true
    wait_until 10 is_gone || kill -KILL "$pid" 2>/dev/null || true
    rm -f "$run/gunicorn.pid.2"
}

# A switch that was cut short may have left two masters. A successor that serves takes over; one that does not is ended.
left=$(read_pid gunicorn.pid.2)
if alive "$left"; then
    if (($(ready_workers "$left") > 0)); then
        say "finishing an interrupted switch to master $left"
        kill -TERM "$(read_pid gunicorn.pid)" 2>/dev/null || true
        left_took_over() { [[ ! -e $run/gunicorn.pid.2 ]]; }
        wait_until "$patience" left_took_over || fail 75 "the old master of an interrupted switch does not end"
    else
        say "ending master $left, which an interrupted switch has left and which does not serve"
        end_successor "$left"
    fi
fi

old=$(read_pid gunicorn.pid)
alive "$old" || fail 1 "gunicorn does not run: no process for $run/gunicorn.pid"
before=$(basename "$(readlink "$root/current")")

if [[ $before == "$name" && $(release_of "$old") == "$name" ]]; then
    say "$name serves already"
    exit 0
fi

say "$(release_of "$old") -> $name"
point_at "$name"
kill -USR2 "$old"

successor_known() {
    new=$(read_pid gunicorn.pid.2)
    alive "$new"
}
workers=$(ready_workers "$old")
((workers > 0)) || workers=1
successor_serves() {
    alive "$new" || return 0
    (($(ready_workers "$new") >= workers))
}
give_up() {
    point_at "$before"
    if alive "$new"; then
        end_successor "$new"
    fi
    fail 1 "$1; $before goes on serving; see $run/gunicorn.log"
}
new=
wait_until "$patience" successor_known || give_up "gunicorn started no successor"
wait_until "$patience" successor_serves || give_up "the successor $new does not serve after $patience s"
alive "$new" || give_up "the successor has ended"
[[ $(release_of "$new") == "$name" ]] || give_up "the successor serves $(release_of "$new")"

say "master $new serves $name with $(ready_workers "$new") workers; ending master $old"
kill -TERM "$old"
# The successor takes the old one's pid file once that is gone; until then it would refuse the next switch.
took_over() { [[ $(read_pid gunicorn.pid) == "$new" && ! -e $run/gunicorn.pid.2 ]]; }
wait_until "$patience" took_over || fail 75 "the old master $old has not ended after $patience s; $name serves"
say "done"
