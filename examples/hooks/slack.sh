#!/bin/sh
# Posts to a Slack incoming webhook, or to what understands the same (Mattermost, Rocket.Chat). For `post` and
# `escalate`. Needs curl and jq.
#
#   [service.rollback.escalate]
#   exec = ["/usr/local/lib/load-watchdog/slack.sh"]
#   user = "deploy"
#   environment = ["URL_FILE=/etc/load-watchdog/slack.url"]
#
# URL_FILE  holds the webhook's address, which is a secret: whoever has it may post
set -eu

: "${URL_FILE:?set URL_FILE to the file with the address of the webhook}"

# Slack wants these three characters escaped, and no others; then no build's name can mention anybody or hide a link.
body=$(jq -c 'def plain: tostring | gsub("&"; "&amp;") | gsub("<"; "&lt;") | gsub(">"; "&gt;");
    (if .test then "[test] " else "" end) as $test
    | (if .outcome == "recovered" then ":white_check_mark: rolled back"
       elif .outcome then ":rotating_light: " + (.outcome | plain) else ":information_source: " + .hook end) as $head
    | {text: ($test + $head + ": " + (.service | plain) + " / " + (.endpoint | plain) + "\n"
        + "bad build " + (.bad_build | plain) + ", good build " + (.good_build // "none" | plain) + "\n"
        + (.reason | plain) + (if .note then "\n" + (.note | plain) else "" end) + "\n"
        + "incident " + (.incident | plain))}')

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
# The address goes through standard input: arguments can be read by everybody on the host.
code=$(printf 'url = "%s"\n' "$(cat -- "$URL_FILE")" |
    curl --config - --silent --show-error --max-time 20 --proto =https --request POST \
        --header 'Content-Type: application/json' --data-raw "$body" \
        --output "$answer" --write-out '%{http_code}') || exit 75
case $code in
    2??) echo "posted" ;;
    429 | 5??) exit 75 ;;
    *)
        echo "the webhook answered $code: $(head -c 200 "$answer")" >&2
        exit 1
        ;;
esac
