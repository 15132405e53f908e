# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # config and env_file are whose script this is sourced by, which uses what is set here
# What the scripts beside this share: sourced after deploy/native/common.sh. `config` is what `compose config` prints,
# and `env_file` the file that docker-compose reads its own settings from.

LOOK_UP=2        # seconds in which nginx has looked the name up: it does each second (resolver in deploy/nginx/render)
READY_WITHIN=120 # seconds; Docker takes 90 to call one unhealthy (start_period, and three checks)

# Fails where a deploy, or a change of passwords, is under way here.
be_the_only_deploy() {
    need_folder
    exec 9>.run/deploying
    flock --nonblock 9 || fail "Another deploy is under way here."
}

# Sets `project`, has Compose take the files that its newest container was made with, and sets `serving` to its replicas.
find_the_stack() {
    local filters=(--filter "label=com.docker.compose.project.working_dir=$PWD")
    [ -z "${COMPOSE_PROJECT_NAME-}" ] || filters+=(--filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
    local found
    found=$(list web "${filters[@]}" --format '{{.Label "com.docker.compose.project"}}' | sort -u)
    case $found in
        '') fail "No replica of the compose stack is here: start it with docker-compose -f docker-compose.prod.yml up." ;;
        *$'\n'*) fail "Several stacks run from this folder: set COMPOSE_PROJECT_NAME to one of ${found//$'\n'/, }." ;;
    esac
    project=$found
    serving=$(replicas)
    local files environment
    files=$(label project.config_files)
    environment=$(label project.environment_file)
    export COMPOSE_PROJECT_NAME=$project COMPOSE_FILE=${files//,/:}
    [ -z "$environment" ] || export COMPOSE_ENV_FILES=$environment
    env_file=${environment##*,}
    env_file=${env_file:-.env}
}

# list SERVICE [docker's arguments]: lists the service's containers, and not those of `docker-compose run`.
list() {
    local service=$1
    shift
    docker ps --all --no-trunc --filter "label=com.docker.compose.service=$service" \
        --filter label=com.docker.compose.oneoff=False "$@"
}

containers_of() { list "$1" --quiet --filter "label=com.docker.compose.project=$project"; }

replicas() { containers_of web; }

# label NAME: prints Compose's label of the newest container: the last `up` may have made nginx anew, for TLS, and no replica.
label() {
    docker ps --all --filter "label=com.docker.compose.project=$project" --filter label=com.docker.compose.oneoff=False \
        --format "{{.Label \"com.docker.compose.$1\"}}" | head -n 1
}

# replica_serves CONTAINER: whether it gets ready, and answers HEALTH_PATH with 2xx.
replica_serves() {
    local end=$((SECONDS + READY_WITHIN)) state
    while state=$(docker inspect --format '{{.State.Status}} {{.State.Health.Status}}' "$1"); do
        [ "$state" != "running healthy" ] || break
        if [ "$state" != "running starting" ] || [ $SECONDS -ge $end ]; then
            echo "It is $state." >&2
            return 1
        fi
        sleep 1
    done
    docker exec "$1" python -c '
import os, sys
from urllib.request import ProxyHandler, build_opener
path = os.environ["HEALTH_PATH"]
try:
    build_opener(ProxyHandler({})).open("http://127.0.0.1:8000" + path, timeout=10)
except OSError as error:
    sys.exit(f"{path}: {error}")
'
}

# image_of SERVICE: prints the image's name as Compose has it; nothing where there is no such service.
image_of() {
    awk -v service="$1:" '/^[^ ]/ { part = $1 } part == "services:" && /^  [^ ]/ { name = $1 }
        part == "services:" && name == service && /^    image:/ { print $2 }' <<<"$config"
}

# volume_of NAME: prints the name that Docker has for the volume.
volume_of() {
    awk -v volume="$1:" '/^[^ ]/ { part = $1 } part == "volumes:" && /^  [^ ]/ { name = $1 }
        part == "volumes:" && name == volume && /^    name:/ { print $2 }' <<<"$config"
}

# set_in_env NAME VALUE: sets it in the file that docker-compose reads. Fails also where bash's -e is without effect.
set_in_env() {
    { grep -v "^$1=" "$env_file" 2>/dev/null || true; echo "$1=$2"; } >.run/env &&
        cat .run/env >"$env_file" &&
        rm .run/env
}
