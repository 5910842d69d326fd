# Shared by the scripts beside it; to be sourced, after `set -euo pipefail`.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# retry COMMAND...: up to four tries, for commands that use the network
retry() {
  local pause
  for pause in 5 15 45; do
    "$@" && return 0
    say "failed, once more in $pause s: $*"
    sleep "$pause"
  done
  "$@"
}
