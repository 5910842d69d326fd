#!/bin/sh
# Bring vhost, exchanges, queues, users and rights of definitions.json into a running broker
# and set the users' passwords. Run it again after each change of definitions.json.
#
#   setup.sh PASSWORD_DIRECTORY [options for rabbitmqctl, such as -n rabbit@host]
#
# The directory holds one file per user, named like the user (make-secrets.sh writes them).
# An import empties the passwords of the users it names until they are set again right after:
# open connections stay, a client that connects in that second is refused and tries again.
# RABBITMQCTL in the environment names another rabbitmqctl.
set -eu

users="wlm-control wlm-worker wlm-orchestrator wlm-flower"
definitions=$(dirname "$0")/definitions.json

if [ $# -eq 0 ]; then
    echo "usage: $0 PASSWORD_DIRECTORY [options for rabbitmqctl]" >&2
    exit 2
fi
passwords=$1
shift
for user in $users; do
    if [ ! -s "$passwords/$user" ]; then
        echo "$0: $passwords/$user: expected a file with the password of $user" >&2
        exit 2
    fi
done

ctl() {
    command=$1
    shift
    "${RABBITMQCTL:-rabbitmqctl}" "$command" --quiet "$@"
}

ctl import_definitions "$@" "$definitions"
for user in $users; do
    # by standard input: arguments can be seen by every user of the machine
    ctl change_password "$@" "$user" <"$passwords/$user"
done
echo "vhost wlm is ready; users: $users"
