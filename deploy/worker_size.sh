# shellcheck shell=sh
# shellcheck disable=SC2034 # they are for the scripts that this is sourced by
# MiB of memory, under load (docs/sizing.md): of a worker, and of the rest of its replica, which is Hypercorn's master, its
# resource tracker and the health check.
WORKER_MEMORY=80
REST_MEMORY=60
