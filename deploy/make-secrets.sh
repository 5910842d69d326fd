#!/bin/sh
# Make a directory with random passwords and with the URLs that contain them.
#
#   make-secrets.sh DIRECTORY [BROKER_HOST [DATABASE_HOST]]      (hosts default to 127.0.0.1)
#
# Files that exist are kept, so running it again adds only what is missing.
set -eu
umask 077

if [ $# -eq 0 ]; then
    echo "usage: $0 DIRECTORY [BROKER_HOST [DATABASE_HOST]]" >&2
    exit 2
fi
directory=$1
broker=${2:-127.0.0.1}
database=${3:-127.0.0.1}
mkdir -p "$directory"
cd "$directory"

keep() { # keep NAME TEXT: write the file unless there is one
    [ -s "$1" ] || printf '%s\n' "$2" >"$1"
}
random() {
    od -An -tx1 -N24 /dev/urandom | tr -d ' \n'
}

for user in wlm-control wlm-worker wlm-orchestrator wlm-flower wlm-database; do
    keep "$user" "$(random)"
done
for role in control worker orchestrator flower; do
    keep "$role-broker-url" "amqp://wlm-$role:$(cat "wlm-$role")@$broker:5672/wlm"
done
# 32 bytes that all Serf agents share
keep serf-key "$(head -c 32 /dev/urandom | base64)"
keep database-url "postgresql+psycopg://wlm:$(cat wlm-database)@$database:5432/wlm"
# Flower asks the broker's management interface as its own user; people log in to Flower.
keep flower-broker-api "http://wlm-flower:$(cat wlm-flower)@$broker:15672/api/"
keep flower-login "operator:$(random)"
