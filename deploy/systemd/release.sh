# shellcheck shell=bash
# shellcheck disable=SC2153,SC2154 # they are set by whose script this is sourced by
# How a release is made: sourced by `deploy` beside this, which sets `folder`, `serving` and `release`, and removes `made`
# where it does not come to serve.

# Copies this folder, which may hold what is secret, for root and the service's user. It gets its name when it is whole.
make_release() {
    made=$releases/.new
    say "making the release $release"
    rm -rf "$made"
    install -d -m 750 -g "$NAME" "$made"
    tar --exclude-vcs --exclude=./.venv --exclude=./.run --exclude=./.quartenv --exclude=./.env --exclude=__pycache__ \
        --mode=u+rwX,go=rX -c . | tar -x --no-same-owner --no-overwrite-dir -C "$made"
    cd "$made" || return
    link_venv
    .venv/bin/python -m compileall -q service migrations deploy
    ln -s "$STATE" .run
    ln -s "/run/$NAME/$release/socket" web.socket
    (write_environment)
    is_private || as_service deploy/native/secrets >/dev/null
    mv "$made" "$releases/$release"
    made=$releases/$release
}

# Copies what serves, with its settings, to a release.
copy_release() {
    made=$releases/.new
    say "starting $serving again, as $release"
    rm -rf "$made"
    cp -a "$releases/$serving" "$made"
    ln -sfn "/run/$NAME/$release/socket" "$made/web.socket"
    sed -i "s|=\"$releases/$serving/|=\"$releases/$release/|" "$made/environment"
    mv "$made" "$releases/$release"
    made=$releases/$release
}

# Has releases with the same requirements share a virtual environment, which takes a minute to make.
link_venv() {
    local shared
    shared=$BASE/venvs/$(sha256sum requirements/native.txt | cut -c1-12)
    mkdir -p "$shared"
    cp -r deploy requirements "$shared"
    # Of a Python that the service's user can run: none of somebody's home.
    env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYENV_ROOT=/nowhere UV_PYTHON_INSTALL_DIR=/nowhere \
        "$shared/deploy/native/venv" native
    ln -s "$shared/.venv" .venv
}

# Notes what the release is told: systemd and the shell read it alike.
write_environment() {
    local name value
    read_quartenv "$folder/.quartenv"
    export APP_VERSION=${APP_VERSION-$release} TRUSTED_PROXIES=unix: SHUTDOWN_DELAY=${SHUTDOWN_DELAY-5}
    set_defaults
    choose_workers
    if has_no_database; then use_private_mariadb "$(port_of_mariadb)"; fi
    use_own_secret_key
    export HEALTH_PATH=${HEALTH_PATH:-$(sed -n 's/^#HEALTH_PATH=//p' .quartenv.example)}
    install -m 640 -g "$NAME" /dev/null environment
    for name in $(settings_that_are_set); do
        value=${!name/#"$made/"/"$releases/$release/"}
        value=${value//\\/\\\\} value=${value//\"/\\\"} value=${value//\$/\\\$} value=${value//\`/\\\`}
        printf '%s="%s"\n' "$name" "$value"
    done >environment
}

# Prints the port of the private MariaDB, which stays the same.
port_of_mariadb() {
    local noted=$BASE/mariadb.port
    [ -s "$noted" ] || .venv/bin/python deploy/native/port.py >"$noted"
    cat "$noted"
}
