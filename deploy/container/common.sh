# shellcheck shell=bash
# shellcheck disable=SC2154 # config and env_file are whose script this is sourced by
# What the scripts beside this share: sourced after deploy/native/common.sh. `config` is what `compose config` prints,
# and `env_file` the file that docker-compose reads its own settings from.

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

# set_in_env NAME VALUE: sets it in the file that docker-compose reads.
set_in_env() {
    { grep -v "^$1=" "$env_file" 2>/dev/null || true; echo "$1=$2"; } >.run/env
    cat .run/env >"$env_file"
    rm .run/env
}
