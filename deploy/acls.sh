#!/bin/sh
# Prints the commands that give each role the rights it needs and no more, and says why; --apply runs them.
set -eu

usage() {
    cat <<'END'
usage: acls.sh [--apply] [--remove] [OPTION VALUE]...

Prints the kafka-acls commands that give each user the rights of a role. Nothing is changed without --apply.
A principal is written as Kafka has it, for example User:farm; a role may be given to several, each by an option.

  --publisher PRINCIPAL   sends job messages
  --worker PRINCIPAL      runs `livejobs worker`
  --viewer PRINCIPAL      reads the results: the web view, your own consumers
  --verifier PRINCIPAL    runs `livejobs verify`: a viewer who sees the job messages, too
  --operator PRINCIPAL    runs `livejobs topics` and `livejobs tank`

  --bootstrap HOST:PORT   a broker; default localhost:9092
  --command-config FILE   how kafka-acls itself logs in: a Java client's properties
  --prefix TEXT           [kafka] topicprefix
  --events TOPIC          [kafka] eventstopic, where it is set; so too --jobs, --stats, --rejects
  --apply                 run the commands
  --remove                take the rights away

Environment: KAFKA_ACLS, the program to run; default kafka-acls.sh.

The brokers need an authorizer, and must refuse who has no right:
  authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
  allow.everyone.if.no.acl.found=false
END
}

fail() {
    echo "acls.sh: $1" >&2
    exit 2
}

bootstrap=localhost:9092 login='' prefix='' events='' jobs='' stats='' rejects=''
action=--add apply=false
publishers='' workers='' viewers='' verifiers='' operators=''
newline='
'

while test $# -gt 0; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --apply) apply=true; shift; continue ;;
        --remove) action=--remove; shift; continue ;;
    esac
    test $# -gt 1 || fail "$1 needs a value; --help explains"
    test -n "$2" || fail "$1 must not be empty"
    case $1 in
        --publisher | --worker | --viewer | --verifier | --operator)
            case $2 in
                *"$newline"*) fail "$1 must be one line" ;;
                ?*:?*) ;;
                *) fail "$1 must be a principal, such as User:$2" ;;
            esac ;;
    esac
    case $1 in
        --publisher) publishers=$publishers$2$newline ;;
        --worker) workers=$workers$2$newline ;;
        --viewer) viewers=$viewers$2$newline ;;
        --verifier) verifiers=$verifiers$2$newline ;;
        --operator) operators=$operators$2$newline ;;
        --bootstrap) bootstrap=$2 ;;
        --command-config) login=$2 ;;
        --prefix) prefix=$2 ;;
        --events) events=$2 ;;
        --jobs) jobs=$2 ;;
        --stats) stats=$2 ;;
        --rejects) rejects=$2 ;;
        *) fail "$1 is unknown; --help explains" ;;
    esac
    shift 2
done
test -n "$publishers$workers$viewers$verifiers$operators" || fail 'no role is given to anybody; --help explains'

events=${events:-${prefix}job-events}
jobs=${jobs:-${prefix}jobs}
stats=${stats:-${prefix}regression-stats}
rejects=${rejects:-${prefix}job-rejects}
group=${prefix}livejobs

shown() {
    for word; do
        case $word in
            *[!A-Za-z0-9_.:,/=+-]*) printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    echo
}

# allow WHY PRINCIPALS OPTION...: one command for all who have the role.
allow() {
    why=$1 principals=$2
    shift 2
    test -n "$principals" || return 0
    while IFS= read -r principal; do
        set -- "$@" --allow-principal "$principal"
    done <<END
${principals%"$newline"}
END
    test -z "$login" || set -- --command-config "$login" "$@"
    test $action = --add || set -- --force "$@"
    set -- "${KAFKA_ACLS:-kafka-acls.sh}" --bootstrap-server "$bootstrap" $action "$@"
    echo "# $why"
    shown "$@" | sed 's/^ //'
    if $apply; then
        "$@" </dev/null >&2 || fail 'the command above failed; those after it were not run'
    fi
}

# The right to write to a topic holds those to see that it is there, and to send idempotently.
allow 'Publisher: sends messages. It can read nothing, not even what it sent. It has no transactional id: a transaction
#   that it leaves open would hold up the workers, who read only what is committed.' \
    "$publishers" --topic "$events" --operation Write

allow 'Worker: reads messages, and the two tables when it restores; writes the tables; and writes, to the topic of the
#   messages, its ticks and what stands on a wrong partition.' \
    "$workers" --topic "$events" --topic "$jobs" --topic "$stats" --operation Read --operation Write
allow 'Worker: says which messages could not be taken; and reads the last one said, when Kafka has forgotten its offsets.' \
    "$workers" --topic "$rejects" --operation Read --operation Write
allow 'Worker: looks whether the topic of the messages has the clock of the broker, and how long the tables tell of
#   deletions.' \
    "$workers" --topic "$events" --topic "$jobs" --topic "$stats" --operation DescribeConfigs
allow 'Worker: shares the partitions with the other workers, and commits.' \
    "$workers" --group "$group" --operation Read
allow 'Worker: writes in transactions. Who else had this right could fence the workers off.' \
    "$workers" --transactional-id "$group-" --resource-pattern-type prefixed --operation Write

allow 'Viewer: reads the two tables. A consumer that joins a group needs Read on that group, too, which must be another
#   than that of the workers.' \
    "$viewers" --topic "$jobs" --topic "$stats" --operation Read

allow 'Verifier: reads the two tables, and the messages to fold them again.' \
    "$verifiers" --topic "$events" --topic "$jobs" --topic "$stats" --operation Read
allow 'Verifier: sees that the topic of the rejects is there, and how far the workers are.' \
    "$verifiers" --topic "$rejects" --group "$group" --operation Describe
allow 'Verifier: looks whether the topic of the messages has the clock of the broker.' \
    "$verifiers" --topic "$events" --operation DescribeConfigs

allow 'Operator: makes these four topics and no other, and compares them with what they must be; alters and deletes none.' \
    "$operators" --topic "$events" --topic "$jobs" --topic "$stats" --topic "$rejects" \
    --operation Create --operation Describe --operation DescribeConfigs
allow 'Operator: tanks and untanks, which is a message.' \
    "$operators" --topic "$events" --operation Write
