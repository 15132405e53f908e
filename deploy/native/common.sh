# shellcheck shell=bash
# What ./run and the scripts below deploy/ share: sourced in the repository's root, whose tasks they carry out.

# What somebody may have set for another purpose, and what would make cd and Python do something else here, and bash refuse
# tasks with a - in their names.
unset CDPATH PYTHONHOME PYTHONINSPECT POSIXLY_CORRECT
set +o posix

# Where Debian keeps nginx and mariadbd, which is not on everyone's PATH.
PATH=$PATH:/usr/sbin:/sbin

say() {
    [ ! -t 1 ] || printf '\r\033[K' # over what `show` has left
    printf -- '-- %s\n' "$*"
    shown=''
}

# show TEXT: says what is waited for: on a terminal in a line that the next one takes the place of.
show() {
    if [ -t 1 ]; then
        printf '\r\033[K-- %s' "$*"
    elif [ "$*" != "${shown-}" ]; then
        say "$*"
    fi
    shown=$*
}

fail() {
    if [ -t 1 ] && [ -n "${shown-}" ]; then say "$shown"; fi
    printf 'run: %s\n' "$*" >&2
    exit 1
}

case $PWD in
    *[%:]* | *$'\n'*)
        fail "Cannot run in $(printf %q "$PWD"): Alembic and Python cannot take %, : or a new line in a path. Move it."
        ;;
esac

# Runs Docker Compose, the plug-in or the command, on the production file unless COMPOSE_FILE says otherwise.
compose() {
    export COMPOSE_FILE=${COMPOSE_FILE:-docker-compose.prod.yml}
    if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

# Prints the version of this folder: its commit, and the time where something is not committed.
version() {
    local commit
    commit=$(git rev-parse --short=12 HEAD 2>/dev/null) || commit=uncommitted
    [ -z "$(git status --porcelain 2>&1)" ] || commit+=-$(date -u +%Y%m%d%H%M%S)
    echo "$commit"
}

# Installs what serves here: nginx, MariaDB and its client.
need_servers() { deploy/native/need nginx=nginx mariadbd=mariadb-server-core mariadb=mariadb-client-core; }

# Makes .run/, which holds all that an installation writes.
need_folder() {
    deploy/native/need flock=flock
    mkdir -p -m 700 .run 2>/dev/null && [ -w .run ] ||
        fail "$(id -un) cannot write to $PWD/.run: give it to $(id -un), or run this as its owner."
}

# Prints where ./run up answers, by its settings.
url_here() {
    local where=(${HTTPS_PORT:+"$HTTPS_PORT" https})
    # shellcheck disable=SC2153 # HTTP_PORT and HTTPS_PORT are two settings
    deploy/nginx/url "$HTTP_ADDRESS" "${where[@]:-$HTTP_PORT}"
}

# Whether ./run install systemd was run in this folder.
is_installed() { [ "$(cat /opt/tally/folder 2>/dev/null)" = "$PWD" ]; }

# Whether this folder is the release that serves by systemd.
is_release() { [ "$PWD" = /opt/tally/current ]; }

# Whether ./run up or systemd runs what is in this folder: each process holds a lock on that file (deploy/native/program).
is_up() { [ -e .run/running ] && ! flock -n .run/running true; }

# Prints how this folder's application runs, or would: systemd, native (by ./run up) or compose. It is native where there
# is no Docker, and where there is a private MariaDB, running or not, and no container.
how_it_runs() {
    if is_installed || is_release; then
        echo systemd
    elif is_up || ! command -v docker >/dev/null ||
        { [ -d .run/mariadb ] && [ -z "$(compose ps --quiet 2>/dev/null)" ]; }; then
        echo native
    else
        echo compose
    fi
}

# how_to start|stop: prints the command for it.
how_to() {
    case $(how_it_runs):$1 in
        systemd:start)
            if [ -e /opt/tally/current ]; then echo "systemctl start tally.target"; else echo "./run deploy"; fi
            ;;
        systemd:stop) echo "systemctl stop tally.target" ;;
        native:start) echo "./run up" ;;
        native:stop) echo Ctrl-C ;;
        compose:start) echo "./run up or docker-compose -f docker-compose.prod.yml up" ;;
    esac
}
