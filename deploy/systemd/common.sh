# shellcheck shell=bash
# shellcheck disable=SC2034 # for the scripts that this is sourced by
# What the scripts beside this share: sourced after deploy/native/common.sh.

NAME=tally
BASE=/opt/$NAME # root's: releases/, and `current`, a link to the one that serves
releases=$BASE/releases current=$BASE/current
STATE=/var/lib/$NAME   # the service's user's: what natively is .run/
LOGS=/var/log/$NAME
UNITS=/etc/systemd/system

need_root() { [ "$(id -u)" = 0 ] || fail "This changes the system: run it by sudo."; }

# as_service COMMAND...: runs it as the service's user. nginx may listen below 1024, also to check its configuration.
as_service() {
    setpriv --reuid $NAME --regid $NAME --init-groups --inh-caps=-all,+net_bind_service \
        --ambient-caps=-all,+net_bind_service --no-new-privs -- "$@"
}

# Prints each unit of this folder, a space, and where systemd has it.
unit_files() {
    local unit
    for unit in deploy/systemd/"$NAME"*.*; do echo "$unit $UNITS/${unit##*/}"; done
    echo "deploy/systemd/service.conf $UNITS/$NAME-.service.d/service.conf"
}

# is_private [RELEASE]: whether it has the private MariaDB.
is_private() { grep -qF 'DB_PASSWORD_FILE="'"$releases" "${1-.}/environment"; }

# of_release COMMAND...: runs it as the service's user, with what this release is told.
of_release() {
    # shellcheck disable=SC2016 # for that shell
    as_service env UPSTREAM=unix:$current/web.socket ACCESS_LOG=$LOGS/access.log \
        bash -c 'umask 077; set -a; . ./environment; set +a; exec "$@"' - "$@"
}

# setting_of_release NAME: prints its value; by the service's user, whose environment it is.
# shellcheck disable=SC2016 # for that shell
setting_of_release() { of_release sh -c 'printenv "$1" || true' - "$1"; }
