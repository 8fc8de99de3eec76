# shellcheck shell=sh
# The server's process: closed while it is prepared, then open, until it is stopped.

server=
registrar=
child=
stopping=
refused=
# The longest a node says nothing while its server recovers, in looks of 0.05 s.
looks_between_words=600
# A question takes milliseconds, and waits 10 s for a lock at most; a frozen server never answers.
answer_deadline_s=60

start_server() {
    "${bindir}postgres" -D "$PGDATA" "$@" &
    server=$!
    looks=0
    until "${bindir}pg_isready" -q -d "service=$service" 2>/dev/null; do
        kill -0 "$server" 2>/dev/null || server_ended
        repeat_stop
        looks=$((looks + 1))
        [ $((looks % looks_between_words)) != 0 ] || say "PostgreSQL is still starting"
        sleep 0.05
    done
    repeat_stop
}

# A stop that came before the server had a number has reached nobody, and one before its own traps nothing: a shell starts
# what it puts in the background with INT and QUIT ignored.
repeat_stop() {
    [ -z "$stopping" ] || kill -s "$stopping" "$server" 2>/dev/null || :
}

server_ended() {
    code=0
    wait "$server" || code=$?
    server=
    [ -z "$stopping" ] || exit 0
    give_up "PostgreSQL did not start (exit code $code); its own words are above"
}

# stop_server SIGNAL: in a trap; what waits for the server goes on from there.
stop_server() {
    stopping=$1
    [ -z "$child" ] || kill "$child" 2>/dev/null || :
    [ -z "$registrar" ] || kill "$registrar" 2>/dev/null || :
    [ -z "$server" ] || kill -s "$1" "$server" 2>/dev/null || :
}

reload_server() {
    [ -z "$server" ] || kill -s HUP "$server" 2>/dev/null || :
}

# wait_for PID: sets code. A signal ends a wait, and not the process: wait again.
wait_for() {
    while :; do
        code=0
        wait "$1" || code=$?
        { [ "$code" -gt 128 ] && kill -0 "$1" 2>/dev/null; } || break
    done
}

wait_for_server() {
    wait_for "$server"
    server=
}

leave_nothing() {
    status=$?
    trap - EXIT
    [ -z "$registrar" ] || kill "$registrar" 2>/dev/null || :
    if [ -n "$server" ]; then
        kill -s INT "$server" 2>/dev/null || :
        wait_for_server
    fi
    rm -f "$run_dir/password" "$run_dir/state"
    exit "$status"
}

# ask SERVICE FILE VARIABLE=VALUE...: psql on sql/FILE; its answer is in $answer, why it failed in $reason.
ask() {
    asked=$1
    file=$2
    shift 2
    for each; do
        shift
        set -- "$@" -v "$each"
    done
    PGAPPNAME=citus-node PGCONNECT_TIMEOUT=5 timeout -k 2 "$answer_deadline_s" "${bindir}psql" -X -q -A -t \
        -v ON_ERROR_STOP=1 "$@" -f "$home/sql/$file" "service=$asked" >"$said.out" 2>"$said.err" &
    child=$!
    wait_for "$child"
    child=
    [ -z "$stopping" ] || return 1
    answer=$(cat "$said.out")
    reason=$(sed 's/^psql: error: //; s/^psql:[^ ]* //; s/^ERROR:  //' "$said.err" | head -n 1)
    [ "$code" != 124 ] || reason="no answer within $answer_deadline_s s"
    return "$code"
}

# prepare: first on a socket of our own only, so that who gets in by TCP finds a node that is ready, or none.
prepare() {
    include_settings
    write_access
    loads_citus=$enable
    while :; do
        write_settings
        write_services
        forget_stale_numbers "$(show_setting unix_socket_directories | sed 's/,.*//')/.s.PGSQL.$port.lock"
        service=socket
        # What an earlier life with Citus may have left, prepared transactions and slots, must not hinder a look.
        set -- -c "listen_addresses=" -c "unix_socket_directories=$run_dir"
        if [ "$loads_citus" = no ] && [ "$is_new" = no ]; then
            set -- "$@" -c "max_prepared_transactions=$(two_for_each_connection)" -c wal_level=logical -c autovacuum=off
        fi
        start_server "$@"
        prepare_database
        close_server
        [ "$loads_citus" = found ] || break
        loads_citus=yes
    done
    forget_passwords
}

close_server() {
    kill -s INT "$server"
    wait_for_server
    [ -z "$stopping" ] || exit 0
    [ "$code" = 0 ] || give_up "PostgreSQL failed while it was prepared (exit code $code); its own words are above"
}

# check ACTION...: a failed question to a closed server is the end.
must() {
    "$@" && return
    [ -z "$stopping" ] || exit 0
    give_up "the node could not be prepared: $reason"
}

prepare_database() {
    said=$run_dir/said
    ask maintenance nothing.sql || {
        [ -z "$stopping" ] || exit 0
        refuse "the password of role '$user' is another one in PGDATA='$PGDATA', or there is no such role" "$reason"
    }
    if [ "$loads_citus" = no ] && [ "$is_new" = no ]; then
        find_databases_with_citus
        if [ -n "$with_citus" ]; then
            say "CITUS_ENABLE is false, and there is Citus in:$with_citus. It stays loaded, since without it" \
                "distributed tables would look empty; this node keeps its place in a cluster, and does not look after it"
            loads_citus=found
            return
        fi
    fi
    must ask maintenance database.sql "database=$database"
    check_dotted_settings
    [ "$enable" = no ] || prepare_citus
}

find_databases_with_citus() {
    with_citus=
    must ask maintenance databases.sql
    while IFS= read -r name; do
        export PGDATABASE="$name"
        must ask any has_citus.sql
        [ "$answer" = 0 ] || with_citus="$with_citus '$name'"
    done <<EOF
$answer
EOF
    unset PGDATABASE
}

run_to_the_end() {
    service=self
    start_server
    [ -z "$stopping" ] || leave
    write_state
    if [ "$enable" = yes ]; then
        # Not the lock, which is the server's: the loop may be killed later than it.
        (keep_registering) 9>&- &
        registrar=$!
    else
        say "ready: PostgreSQL on port $port$([ "$loads_citus" = no ] || echo ', with Citus loaded')"
    fi
    leave
}

leave() {
    wait_for_server
    [ -z "$registrar" ] || { kill "$registrar" 2>/dev/null || :; wait "$registrar" 2>/dev/null || :; }
    registrar=
    [ -z "$refused" ] || exit 2
    [ -n "$stopping" ] || say "PostgreSQL ended by itself (exit code $code)"
    exit "$code"
}
