# shellcheck shell=sh
# What the environment says, checked; an empty variable counts as not set.

known_variables='CITUS_ENABLE CITUS_ROLE CITUS_COORDINATOR_HOST CITUS_COORDINATOR_PORT CITUS_SHARD_COUNT
    CITUS_NODE_HOST CITUS_NODE_PORT CITUS_NODE_USER CITUS_NODE_RUN_DIR CITUS_NODE_PASSFILE
    CITUS_VERSION CITUS_WORKERS'
line_feed='
'
carriage_return=$(printf '\r')

# Where PostgreSQL's programs are, and where this node keeps what dies with it: passwords, sockets.
read_place() {
    bindir=${PG_BINDIR:+${PG_BINDIR%/}/}
    command -v "${bindir}postgres" >/dev/null ||
        refuse "there is no postgres in ${PG_BINDIR:-PATH}" "name the directory of PostgreSQL's programs in PG_BINDIR"
    run_dir=${CITUS_NODE_RUN_DIR:-/run/citus-node}
    # It becomes private to the server's user: nothing that others use may be meant.
    case $run_dir in
        /var/run | /var/tmp | /var/lib | */ | */. | */.. | *[!A-Za-z0-9./_-]*) is_own=no ;;
        /*/*) is_own=yes ;;
        *) is_own=no ;;
    esac
    [ "$is_own" = yes ] || refuse "CITUS_NODE_RUN_DIR='$run_dir' is no directory of a node's own" "such as /run/citus-node"
    # libpq of ours, and inside the server, obeys nothing but what is written there.
    # PGPORT and PGDATA are the node's own.
    for name in $(env | sed -n 's/^\(PG[A-Z]*\)=.*/\1/p'); do
        case $name in PGDATA | PGPORT) ;; *) unset "$name" ;; esac
    done
    # Messages in English, whatever the image speaks.
    unset LC_ALL LANG LANGUAGE
    export LC_ALL=C PGPASSFILE="$run_dir/passfile" PGCLIENTENCODING=UTF8
}

read_input() {
    read_place
    enable=$(read_switch CITUS_ENABLE "${CITUS_ENABLE:-false}")
    role=${CITUS_ROLE:-coordinator}
    case $role in
        coordinator | worker) ;;
        *) refuse "CITUS_ROLE='$role' is no role" "say coordinator or worker" ;;
    esac
    port=${PGPORT:-5432}
    node_port=${CITUS_NODE_PORT:-$port}
    coordinator_host=${CITUS_COORDINATOR_HOST:-}
    coordinator_port=${CITUS_COORDINATOR_PORT:-5432}
    check_port PGPORT "$port"
    check_port CITUS_NODE_PORT "$node_port"
    check_port CITUS_COORDINATOR_PORT "$coordinator_port"
    node_host=${CITUS_NODE_HOST:-$(hostname)}
    check_host CITUS_NODE_HOST "$node_host"
    check_name_stays
    check_coordinator
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    check_identifier POSTGRES_USER "$user"
    check_identifier POSTGRES_DB "$database"
    [ -n "${PGDATA:-}" ] || refuse "PGDATA is not set" "name the directory of the data"
    case $PGDATA in /*) ;; *) refuse "PGDATA='$PGDATA' is no absolute path" "begin it with /" ;; esac
    check_foreign_variables
}

# read_switch NAME VALUE: prints yes or no.
read_switch() {
    case $2 in
        [Tt]rue | TRUE | [Yy]es | YES | [Oo]n | ON | 1) echo yes ;;
        [Ff]alse | FALSE | [Nn]o | NO | [Oo]ff | OFF | 0) echo no ;;
        *) refuse "$1='$2' is neither true nor false" "say true or false" ;;
    esac
}

check_port() {
    case $2 in
        '' | *[!0-9]* | ??????*) refuse "$1='$2' is no port" "give a number from 1 to 65535" ;;
    esac
    { [ "$2" -ge 1 ] && [ "$2" -le 65535 ]; } || refuse "$1='$2' is no port" "give a number from 1 to 65535"
}

check_host() {
    case $2 in
        *:*:*) ;;
        '' | -* | *[!A-Za-z0-9._-]*) refuse "$1='$2' is no host" "give one name, without port and without a list" ;;
    esac
}

# The name goes into pg_dist_node of every node: an address is another one after a restart (two workers swapped theirs).
check_name_stays() {
    case $node_host in
        127.* | ::1) return ;;
        *:*) ;;
        *[!0-9.]*) return ;;
        *.*) ;;
        *) return ;;
    esac
    refuse "CITUS_NODE_HOST='$node_host' is an address" "give a name, which stays when the address changes"
}

check_coordinator() {
    if [ "$role" = worker ]; then
        [ -n "$coordinator_host" ] ||
            refuse "CITUS_COORDINATOR_HOST is empty, and CITUS_ROLE is worker" "name the coordinator's host"
    elif [ -n "$coordinator_host" ] && [ -z "${CITUS_ROLE:-}" ] && [ "$enable" = yes ]; then
        refuse "CITUS_COORDINATOR_HOST='$coordinator_host' is set, and CITUS_ROLE is not" "say worker or coordinator"
    fi
    [ -z "$coordinator_host" ] || check_host CITUS_COORDINATOR_HOST "$coordinator_host"
    if [ "$role" = worker ] && [ "$coordinator_host:$coordinator_port" = "$node_host:$node_port" ]; then
        refuse "CITUS_COORDINATOR_HOST='$coordinator_host' with port $coordinator_port is this worker itself" \
            "name the coordinator's host"
    fi
}

check_identifier() {
    case $2 in
        *["$line_feed$carriage_return"]* | ' '* | *' ') refuse "$1 has a line break, or a space at its end" "take it out" ;;
    esac
    [ "$(printf %s "$2" | wc -c)" -le 63 ] || refuse "$1='$2' is longer than 63 bytes" "choose a shorter name"
}

# Variables of the official image that have no meaning here, and those that nobody knows.
check_foreign_variables() {
    for name in POSTGRES_HOST_AUTH_METHOD POSTGRES_INITDB_ARGS POSTGRES_INITDB_WALDIR; do
        eval "value=\${$name:-}"
        [ -z "$value" ] ||
            refuse "$name='$value' is not obeyed here" "unset it; docs/roles.md says how data directories are made"
    done
    for name in CITUS_DISTRIBUTED_EXECUTOR CITUS_MAX_WORKER_PROCESSES; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || refuse_gone_setting "$(printf %s "$name" | sed 's/CITUS_/citus./' | tr '[:upper:]' '[:lower:]')"
    done
    for name in $(env | sed -n 's/^\(CITUS_[A-Za-z0-9_]*\)=.*/\1/p'); do
        case " $(echo $known_variables) " in
            *" $name "*) ;;
            # Root passes everything on to itself as another user, who says it.
            *) [ "$(id -u)" = 0 ] || say "$name is not known here: ignored (settings are given as POSTGRES_SETTING_citus__<name>)" ;;
        esac
    done
}

read_password() {
    # Were there a variable of this name outside, it would stay one for all children.
    unset password
    if [ -n "${POSTGRES_PASSWORD:-}" ] && [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        refuse "POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are both set" "unset one of them"
    elif [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        { [ -f "$POSTGRES_PASSWORD_FILE" ] && [ -r "$POSTGRES_PASSWORD_FILE" ]; } ||
            refuse "POSTGRES_PASSWORD_FILE='$POSTGRES_PASSWORD_FILE' cannot be read" "name a file that $(id -un) can read"
        password=$(cat "$POSTGRES_PASSWORD_FILE")
        [ -n "$password" ] ||
            refuse "POSTGRES_PASSWORD_FILE='$POSTGRES_PASSWORD_FILE' is empty" "write the superuser's password into it"
    elif [ -n "${POSTGRES_PASSWORD:-}" ]; then
        password=$POSTGRES_PASSWORD
    else
        refuse "there is no password" "set POSTGRES_PASSWORD_FILE (better) or POSTGRES_PASSWORD; all nodes need the same"
    fi
    unset POSTGRES_PASSWORD
    case $password in
        *["$line_feed$carriage_return"]*) refuse "the password has a line break" "choose one of a single line" ;;
    esac
    if [ -n "${CITUS_NODE_PASSFILE:-}" ] && ! { [ -f "$CITUS_NODE_PASSFILE" ] && [ -r "$CITUS_NODE_PASSFILE" ]; }; then
        refuse "CITUS_NODE_PASSFILE='$CITUS_NODE_PASSFILE' cannot be read" "name a file of lines host:port:database:role:password"
    fi
}

# drop_to_user PROGRAM ARGUMENT...: as root, prepare what needs root, and run PROGRAM again as an ordinary user.
drop_to_user() {
    server_user=${CITUS_NODE_USER:-postgres}
    server_uid=$(id -u "$server_user" 2>/dev/null) ||
        refuse "CITUS_NODE_USER='$server_user' is no user here" "name one; PostgreSQL does not run as root"
    [ "$server_uid" != 0 ] || refuse "CITUS_NODE_USER='$server_user' is root" "name another; PostgreSQL does not run as root"
    refuse_foreign_directory
    mkdir -p "$run_dir" "$PGDATA"
    chmod 700 "$run_dir" "$PGDATA"
    find "$PGDATA" ! -user "$server_user" -exec chown -h "$server_user" {} +
    # Files that only root can read, such as secrets, are copied for the user; never into the data.
    (
        umask 077
        printf '%s\n' "$password" >"$run_dir/password"
        [ -z "${CITUS_NODE_PASSFILE:-}" ] || cat "$CITUS_NODE_PASSFILE" >"$run_dir/passfile.given"
    )
    [ -z "${CITUS_NODE_PASSFILE:-}" ] || export CITUS_NODE_PASSFILE="$run_dir/passfile.given"
    export POSTGRES_PASSWORD_FILE="$run_dir/password" HOME="$run_dir"
    chown -R "$server_user" "$run_dir"
    if command -v gosu >/dev/null; then
        exec gosu "$server_user" "$@"
    fi
    exec setpriv --reuid "$server_user" --regid "$(id -g "$server_user")" --init-groups --inh-caps=-all "$@"
}
