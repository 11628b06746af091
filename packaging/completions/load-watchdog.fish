# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_load_watchdog_global_optspecs
    string join \n h/help V/version
end

function __fish_load_watchdog_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_load_watchdog_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_load_watchdog_using_subcommand
    set -l cmd (__fish_load_watchdog_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -s V -l version -d 'Print version'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "run" -d 'Run the agent: measure, judge, roll back.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "check-config" -d 'Check a configuration file and say what is wrong, where, and what would be right.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "doctor" -d 'Check whether this machine can run the agent; each line is ok or says what to do.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "status" -d 'Show what the running agent sees: services, builds, cost per request, verdicts.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "builds" -d 'List the builds that were seen and how they were judged, or decide on one.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "incidents" -d 'List incidents, or show one with its timeline.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "hook" -d 'Try a service\'s rollback hook'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "approve" -d 'Let an incident\'s rollback run that waits for approval.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "reject" -d 'Close an incident that waits for approval: nothing is rolled back.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "acknowledge" -d 'Say that a person knows of an escalated or observed incident: it is not told again.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "mode" -d 'Give a service another mode than its configuration does, or that one again.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "pause" -d 'Let no rollback run by itself for a while, of any service.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "resume" -d 'End a pause before its time'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "audit" -d 'Show who decided what, the newest first: done, refused, and over'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "gate" -d 'Ask whether a build may go on, for pipelines; the answer is the exit code.'
complete -c load-watchdog -n "__fish_load_watchdog_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l config -d 'The configuration file' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l listen -d 'Address of /metrics and /healthz [agent.listen]' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l state-dir -d 'Directory of the ledger [agent.state_dir]' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l control -d 'Control socket [agent.control]' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l control-group -d 'Group that may read over the control socket [agent.control_group]' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l control-operators -d 'Users, and groups with a % before their name, that may change something over the control socket beside root, separated by commas [agent.control_operators]' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l min-coverage -d 'Smallest share of CPU time that must be attributed for a verdict, 0 to 1 [agent.min_coverage]' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l log -d 'Log level, or a filter such as "info,watchdog::kernel=debug" [agent.log]' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l sample-ring-bytes -d 'Bytes of the sample ring, a power of two; for tests of its overflow' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -l probe-stats -d 'Let the kernel count runs and run time of each program, exported as probe_run metrics'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand check-config" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand doctor" -l config -d 'Also check what this configuration needs: state directory, socket, services' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand doctor" -l json -d 'Print JSON for machines'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand status" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand status" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand status" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and not __fish_seen_subcommand_from accept condemn forget help" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and not __fish_seen_subcommand_from accept condemn forget help" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and not __fish_seen_subcommand_from accept condemn forget help" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and not __fish_seen_subcommand_from accept condemn forget help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and not __fish_seen_subcommand_from accept condemn forget help" -f -a "accept" -d 'Take a build for good before its guard time is over, or although it was condemned.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and not __fish_seen_subcommand_from accept condemn forget help" -f -a "condemn" -d 'Take a build for bad, whatever it costs.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and not __fish_seen_subcommand_from accept condemn forget help" -f -a "forget" -d 'Withdraw what was decided of a build, be it by a person or by an incident.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and not __fish_seen_subcommand_from accept condemn forget help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from accept" -l endpoint -d 'Only what it costs on this endpoint' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from accept" -l for -d 'How long it holds, such as "2h"; until it is withdrawn when left out' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from accept" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from accept" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from accept" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from accept" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from condemn" -l endpoint -d 'Only what it costs on this endpoint' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from condemn" -l for -d 'How long it holds, such as "2h"; until it is withdrawn when left out' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from condemn" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from condemn" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from condemn" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from condemn" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from forget" -l endpoint -d 'Only what it costs on this endpoint' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from forget" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from forget" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from forget" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from forget" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from help" -f -a "accept" -d 'Take a build for good before its guard time is over, or although it was condemned.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from help" -f -a "condemn" -d 'Take a build for bad, whatever it costs.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from help" -f -a "forget" -d 'Withdraw what was decided of a build, be it by a person or by an incident.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand builds; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and not __fish_seen_subcommand_from show report help" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and not __fish_seen_subcommand_from show report help" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and not __fish_seen_subcommand_from show report help" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and not __fish_seen_subcommand_from show report help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and not __fish_seen_subcommand_from show report help" -f -a "show" -d 'Show one incident: what was seen, what was decided, what was run, how it ended'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and not __fish_seen_subcommand_from show report help" -f -a "report" -d 'Show one incident: what was seen, what was decided, what was run, how it ended'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and not __fish_seen_subcommand_from show report help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from show" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from show" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from show" -l html -d 'Print the review as one HTML page that needs nothing beside itself'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from show" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from report" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from report" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from report" -l html -d 'Print the review as one HTML page that needs nothing beside itself'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from report" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show one incident: what was seen, what was decided, what was run, how it ended'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand incidents; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand hook; and not __fish_seen_subcommand_from test help" -s h -l help -d 'Print help'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand hook; and not __fish_seen_subcommand_from test help" -f -a "test" -d 'Run one of a service\'s hooks with a payload that is marked as a test.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand hook; and not __fish_seen_subcommand_from test help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand hook; and __fish_seen_subcommand_from test" -l hook -d 'Which of its hooks' -r -f -a "pre\t''
rollback\t''
post\t''
escalate\t''"
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand hook; and __fish_seen_subcommand_from test" -l config -d 'The configuration file' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand hook; and __fish_seen_subcommand_from test" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand hook; and __fish_seen_subcommand_from help" -f -a "test" -d 'Run one of a service\'s hooks with a payload that is marked as a test.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand hook; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand approve" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand approve" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand approve" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand approve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand reject" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand reject" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand reject" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand reject" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand acknowledge" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand acknowledge" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand acknowledge" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand acknowledge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand mode" -l for -d 'How long it holds, such as "2h"; until it is withdrawn when left out' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand mode" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand mode" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand mode" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand mode" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand pause" -l for -d 'How long; it ends by itself, as one that is forgotten must not leave the host without a guard' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand pause" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand pause" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand pause" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand pause" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand resume" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand resume" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand resume" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand audit" -l limit -d 'Lines to show' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand audit" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand audit" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand audit" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand audit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand gate" -l wait -d 'Wait so long for an answer other than "undecided", such as "10m"' -r
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand gate" -l control -d 'The agent\'s control socket' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand gate" -l state-dir -d 'Where the agent keeps its ledger, read when no agent answers' -r -F
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand gate" -l json -d 'Print JSON for machines; its field names are stable'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand gate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "run" -d 'Run the agent: measure, judge, roll back.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "check-config" -d 'Check a configuration file and say what is wrong, where, and what would be right.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "doctor" -d 'Check whether this machine can run the agent; each line is ok or says what to do.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "status" -d 'Show what the running agent sees: services, builds, cost per request, verdicts.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "builds" -d 'List the builds that were seen and how they were judged, or decide on one.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "incidents" -d 'List incidents, or show one with its timeline.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "hook" -d 'Try a service\'s rollback hook'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "approve" -d 'Let an incident\'s rollback run that waits for approval.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "reject" -d 'Close an incident that waits for approval: nothing is rolled back.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "acknowledge" -d 'Say that a person knows of an escalated or observed incident: it is not told again.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "mode" -d 'Give a service another mode than its configuration does, or that one again.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "pause" -d 'Let no rollback run by itself for a while, of any service.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "resume" -d 'End a pause before its time'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "audit" -d 'Show who decided what, the newest first: done, refused, and over'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "gate" -d 'Ask whether a build may go on, for pipelines; the answer is the exit code.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and not __fish_seen_subcommand_from run check-config doctor status builds incidents hook approve reject acknowledge mode pause resume audit gate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and __fish_seen_subcommand_from builds" -f -a "accept" -d 'Take a build for good before its guard time is over, or although it was condemned.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and __fish_seen_subcommand_from builds" -f -a "condemn" -d 'Take a build for bad, whatever it costs.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and __fish_seen_subcommand_from builds" -f -a "forget" -d 'Withdraw what was decided of a build, be it by a person or by an incident.'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and __fish_seen_subcommand_from incidents" -f -a "show" -d 'Show one incident: what was seen, what was decided, what was run, how it ended'
complete -c load-watchdog -n "__fish_load_watchdog_using_subcommand help; and __fish_seen_subcommand_from hook" -f -a "test" -d 'Run one of a service\'s hooks with a payload that is marked as a test.'
