# shellcheck shell=sh
# PostgreSQL's settings: those that are given, those that a node needs, and which of them exist.

settings_file=citus-node.conf
hba_file=citus-node.hba
given= # lines of name=value

refuse_gone_setting() {
    case $1 in
        citus.distributed_executor)
            refuse "setting $1 does not exist any more" \
                "leave it out, there is one executor; citus.max_adaptive_executor_pool_size bounds its connections"
            ;;
        citus.max_worker_processes)
            refuse "setting $1 does not exist any more" \
                "leave it out, workers register themselves; max_worker_processes bounds background processes"
            ;;
    esac
}

# give NAME VALUE: a setting from outside.
give() {
    name=$1
    case $name in *[A-Z]*) name=$(printf %s "$name" | tr '[:upper:]' '[:lower:]') ;; esac
    case $name in
        '' | [!a-z_]* | *[!a-z0-9_.]* | *. | *.*.*) refuse "'$1' is no name of a setting" "such as work_mem, or citus.shard_count" ;;
        port) refuse "setting port is the node's own" "set PGPORT" ;;
        config_file | data_directory | external_pid_file | hba_file | ident_file | password_encryption)
            refuse "setting $name is the node's own" "leave it out; docs/roles.md says what a node decides itself"
            ;;
    esac
    case $2 in
        *["$line_feed$carriage_return"]*) refuse "the value of setting $name has a line break" "give one line" ;;
    esac
    refuse_gone_setting "$name"
    case $line_feed$given in
        *"$line_feed$name="*) refuse "setting $name is given twice" "give it once" ;;
    esac
    given="$given$name=$2$line_feed"
}

# setting NAME: the value that was given.
setting() {
    printf %s "$given" | sed -n "s/^$1=//p"
}

# POSTGRES_SETTING_<name>=value, with two underscores for a dot; CITUS_SHARD_COUNT; -c name=value as PostgreSQL takes it.
read_arguments() {
    for variable in $(env | sed -n 's/^\(POSTGRES_SETTING_[A-Za-z0-9_]*\)=.*/\1/p'); do
        eval "value=\${$variable-}"
        name=${variable#POSTGRES_SETTING_}
        case $name in *__*) name=${name%%__*}.${name#*__} ;; esac
        give "$name" "$value"
    done
    [ -z "${CITUS_SHARD_COUNT:-}" ] || give citus.shard_count "$CITUS_SHARD_COUNT"
    while [ $# -gt 0 ]; do
        case $1 in -c) ;; *) refuse "'$1' is no argument of citus-node" "say -c name=value" ;; esac
        case ${2:-} in *=*) ;; *) refuse "'-c ${2:-}' has no value" "say -c name=value" ;; esac
        give "${2%%=*}" "${2#*=}"
        shift 2
    done
    check_libraries
}

check_libraries() {
    libraries=$(setting shared_preload_libraries | tr -d ' ')
    case ",$libraries," in
        *,citus,*)
            [ "$enable" = yes ] ||
                refuse "setting shared_preload_libraries='$libraries' loads Citus, and CITUS_ENABLE is false" \
                    "set CITUS_ENABLE=true"
            libraries=$(printf %s ",$libraries," | sed 's/,citus,/,/; s/^,//; s/,$//')
            ;;
    esac
    if [ "$enable" = yes ] && [ "$(setting max_prepared_transactions)" = 0 ]; then
        refuse "setting max_prepared_transactions=0 makes distributed writes fail" "leave it out, or say 2 for each connection"
    fi
}

# PostgreSQL itself says which of its settings exist, and which values they take, before anything was made.
check_settings() {
    mkdir -p "$run_dir/empty"
    : >"$run_dir/empty/postgresql.conf"
    set --
    while IFS= read -r line; do
        # Those with a dot are a library's: see check_dotted_settings.
        case ${line%%=*} in '' | *.*) ;; *) set -- "$@" -c "$line" ;; esac
    done <<EOF
$given
EOF
    "${bindir}postgres" -D "$run_dir/empty" "$@" -C max_connections >/dev/null 2>"$run_dir/said" ||
        refuse "PostgreSQL refuses a setting" "$(sed -n 's/^.*FATAL: *//p' "$run_dir/said" | head -n 1)"
}

# Those with a dot are known to a server that has loaded their library; one that it does not know it drops silently.
check_dotted_settings() {
    names=$(printf %s "$given" | sed -n 's/^\([^=]*\.[^=]*\)=.*/\1/p')
    [ "$loads_citus" = yes ] || names=$(printf '%s\n' "$names" | grep -v '^citus\.' || :)
    must ask maintenance settings.sql "names=$(echo $names)"
    [ -z "$answer" ] && return
    name=${answer%%|*}
    case ${answer#*|} in
        missing) refuse "setting $name does not exist" "leave it out, or load its library" ;;
        *) refuse "setting $name='$(setting "$name")' was refused by PostgreSQL" "its words are above" ;;
    esac
}

# write_settings: what PostgreSQL reads after postgresql.conf. ALTER SYSTEM still wins.
write_settings() {
    {
        echo "# Written by citus-node at every start: change the node's environment, or use ALTER SYSTEM."
        put listen_addresses '*'
        put port "$port"
        put password_encryption scram-sha-256
        put hba_file "$PGDATA/$hba_file"
        if [ "$loads_citus" = yes ]; then
            # Citus wants to be the first.
            put shared_preload_libraries "citus${libraries:+,$libraries}"
            # Moving a shard copies it by logical replication.
            put wal_level logical
            # A write to two workers is prepared on both. Citus' own choice, written down so that it holds without Citus too.
            put max_prepared_transactions "$(two_for_each_connection)"
            # Statistics of use are nobody's business.
            put citus.enable_statistics_collection off
            # Citus' default, sslmode=require, cannot be met by a PostgreSQL built without TLS.
            [ -n "$(show_setting ssl_library)" ] || put citus.node_conninfo sslmode=disable
        else
            # The official image's own postgresql.conf loads Citus.
            put shared_preload_libraries "$libraries"
        fi
        printf %s "$given" | while IFS= read -r line; do
            case ${line%%=*} in shared_preload_libraries) continue ;; citus.*) [ "$loads_citus" = yes ] || continue ;; esac
            put "${line%%=*}" "${line#*=}"
        done
    } >"$PGDATA/$settings_file.new"
    mv "$PGDATA/$settings_file.new" "$PGDATA/$settings_file"
    [ "$loads_citus" = no ] || check_nobody_unloads
}

put() {
    printf "%s = '%s'\n" "$1" "$(printf %s "$2" | sed "s/\\\\/\\\\\\\\/g; s/'/''/g")"
}

two_for_each_connection() {
    connections=$(setting max_connections)
    [ -n "$connections" ] || connections=$(show_setting max_connections)
    echo $((connections * 2))
}

# show_setting NAME: as the data directory's files have it now.
show_setting() {
    "${bindir}postgres" -D "$PGDATA" -C "$1" 2>/dev/null || echo
}

check_nobody_unloads() {
    case ",$(show_setting shared_preload_libraries | tr -d ' ')," in
        *,citus,*) ;;
        *)
            refuse "ALTER SYSTEM has set shared_preload_libraries without citus in $PGDATA/postgresql.auto.conf" \
                "take that line out; other libraries go into POSTGRES_SETTING_shared_preload_libraries"
            ;;
    esac
}

# Every way in asks for a password by SCRAM, the socket too; physical replication has no way in.
write_access() {
    {
        echo "# Written by citus-node at every start. Lines of your own go into pg_hba_extra.conf beside it; they come first."
        [ ! -e "$PGDATA/pg_hba_extra.conf" ] || echo "include pg_hba_extra.conf"
        echo "local all all     scram-sha-256"
        echo "host  all all all scram-sha-256"
    } >"$PGDATA/$hba_file.new"
    mv "$PGDATA/$hba_file.new" "$PGDATA/$hba_file"
}
