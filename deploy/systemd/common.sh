# shellcheck shell=bash
# shellcheck disable=SC2034 # for the scripts that this is sourced by
# What the scripts beside this share: sourced after deploy/native/common.sh.

NAME=tally
BASE=/opt/$NAME # root's: releases/, and `current`, a link to the one that serves
STATE=/var/lib/$NAME   # the service's user's: what natively is .run/
LOGS=/var/log/$NAME
UNITS=/etc/systemd/system

need_root() { [ "$(id -u)" = 0 ] || fail "This changes the system: run it by sudo."; }

# as_service COMMAND...: runs it as the service's user. nginx may listen below 1024, also to check its configuration.
as_service() {
    setpriv --reuid $NAME --regid $NAME --init-groups --inh-caps=-all,+net_bind_service \
        --ambient-caps=-all,+net_bind_service --no-new-privs -- "$@"
}
