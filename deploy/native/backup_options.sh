# shellcheck shell=bash
# shellcheck disable=SC2034 # they are for the scripts that this is sourced by
# What `./run backup` and `./run restore` are told, in containers and natively alike. Sourced after common.sh.

BACKUP_USAGE='usage: ./run backup [--logs | --list | --changes | --verify [BACKUP]]'
RESTORE_USAGE='usage: ./run restore [--to MOMENT] [--backup BACKUP] [--in-place [--yes] | --beside NAME [--port PORT]]'

# read_options [OPTION...]: sets what ./run restore is told; `options` is what chooses the moment.
read_options() {
    options=() in_place='' yes='' beside_name='' port=''
    while [ $# != 0 ]; do
        case $1 in
            --in-place) in_place=yes ;;
            --yes) yes=yes ;;
            --to | --backup | --beside | --port)
                [ $# != 1 ] || fail "$RESTORE_USAGE"
                case $1 in
                    --beside) beside_name=$2 ;;
                    --port) port=$2 ;;
                    *) options+=("$1" "$2") ;;
                esac
                shift
                ;;
            *) fail "$RESTORE_USAGE" ;;
        esac
        shift
    done
    [ -z "$in_place" ] || [ -z "$beside_name" ] || fail "$RESTORE_USAGE"
}

# ask WHAT: fails unless somebody agrees, or has done so by --yes.
ask() {
    local answer
    [ -z "$yes" ] || return 0
    [ -t 0 ] || fail "Nobody is here to be asked. $1 Say --yes where that is meant."
    read -r -p "$1 Restore in its place? (yes/no) " answer
    [ "$answer" = yes ] || fail "Nothing was changed."
}
