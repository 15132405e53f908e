# shellcheck shell=bash
# What the programs are told where there is no Docker: sourced after common.sh, in the folder that they run in.

# read_quartenv FILE: fills what the environment lacks from it, as the service does.
read_quartenv() {
    local given filling
    [ -e "$1" ] || return 0
    given=$(set -o posix && export -p)
    filling=$(.venv/bin/python -P service/platform/quartenv.py "$(realpath -s "$1")") || exit 1
    eval "$filling"
    eval "$given"
}

# Sets and exports what the bundle itself reads, where it is not set.
set_defaults() {
    export QUART_APP=${QUART_APP:-service.asgi:app} HTTP_ADDRESS=${HTTP_ADDRESS:-127.0.0.1} HTTP_PORT=${HTTP_PORT:-8080}
    HTTP_ADDRESS=${HTTP_ADDRESS#[} HTTP_ADDRESS=${HTTP_ADDRESS%]} # of an IPv6 address
    export DB_PORT=${DB_PORT:-3306} DATABASE_NAME=${DATABASE_NAME:-tally} WORKERS=${WORKERS:-auto}
    export TRUSTED_BALANCERS=${TRUSTED_BALANCERS-} MAX_BODY_SIZE=${MAX_BODY_SIZE:-65536}
    export RATE_LIMIT=${RATE_LIMIT-} RATE_LIMIT_BURST=${RATE_LIMIT_BURST-}
    export HTTPS_PORT=${HTTPS_PORT-} HSTS_MAX_AGE=${HSTS_MAX_AGE-}
}

# Has a worker for each processor that this may use, unless WORKERS is a number.
choose_workers() {
    local chosen
    [[ $WORKERS =~ ^(auto|[0-9]+)$ ]] || fail "WORKERS is malformed: see .quartenv.example."
    [ "$WORKERS" = auto ] || return 0
    chosen=$(deploy/processors)
    say "WORKERS=auto: $chosen"
    WORKERS=${chosen%% *}
}

has_no_database() { [ -z "${DB_HOST-}${DB_HOST_FILE-}" ]; }

# use_private_mariadb PORT
use_private_mariadb() {
    export DB_HOST=127.0.0.1 DB_PORT=$1 DB_USERNAME=${DB_USERNAME:-tally} DB_PASSWORD_FILE=$PWD/.run/secrets/db_password
    export MIGRATION_DB_USERNAME=${MIGRATION_DB_USERNAME:-tally_migration}
    export MIGRATION_DB_PASSWORD_FILE=$PWD/.run/secrets/migration_db_password
}

# Cookies of the former key are believed, too, as after ./run rotate.
use_own_secret_key() {
    [ -z "${SECRET_KEY-}${SECRET_KEY_FILE-}" ] || return 0
    export SECRET_KEY_FILE=$PWD/.run/secrets/secret_key
    [ -n "${SECRET_KEY_FALLBACKS-}${SECRET_KEY_FALLBACKS_FILE-}" ] ||
        export SECRET_KEY_FALLBACKS_FILE=$PWD/.run/secrets/secret_key_former
}

# Prints the names of the settings that are set, of those that .quartenv.example has.
settings_that_are_set() {
    sed -nE 's/^#?([A-Z_]+)=.*/\1 \1_FILE/p' .quartenv.example | tr ' ' '\n' | while read -r name; do
        [ -z "${!name+set}" ] || echo "$name"
    done
}
