# shellcheck shell=sh
# The data directory: made so that a kill at any moment leaves nothing half made, locked while a node runs on it.

making=citus-node.new

# Files of mode 0600 in a directory that only the server's user can enter; gone with the container.
write_passwords() {
    mkdir -p "$run_dir" 2>/dev/null && [ -w "$run_dir" ] ||
        refuse "CITUS_NODE_RUN_DIR='$run_dir' cannot be written to by $(id -un)" "name a directory of its own"
    chmod 700 "$run_dir" || refuse "CITUS_NODE_RUN_DIR='$run_dir' belongs to somebody else" "name a directory of its own"
    umask 077
    printf '%s\n' "$password" >"$run_dir/password"
    {
        [ -z "${CITUS_NODE_PASSFILE:-}" ] || { cat "$CITUS_NODE_PASSFILE" && echo; }
        printf '*:*:*:%s:%s\n' "$(printf %s "$user" | sed 's/[\\:]/\\&/g')" "$(printf %s "$password" | sed 's/[\\:]/\\&/g')"
    } >"$run_dir/passfile"
    export PGSERVICEFILE="$run_dir/services"
}

# forget_passwords: what only initdb needs.
forget_passwords() {
    rm -f "$run_dir/password"
    password=
}

# Services of libpq: this node by its socket and by TCP, and its coordinator.
write_services() {
    {
        printf '[any]\nhost=%s\nport=%s\nuser=%s\n' "$run_dir" "$port" "$user"
        printf '[maintenance]\nhost=%s\nport=%s\nuser=%s\ndbname=postgres\n' "$run_dir" "$port" "$user"
        printf '[socket]\nhost=%s\nport=%s\nuser=%s\ndbname=%s\n' "$run_dir" "$port" "$user" "$database"
        printf '[self]\nhost=%s\nport=%s\nuser=%s\ndbname=%s\n' "$(own_address)" "$port" "$user" "$database"
        if [ "$role" = worker ]; then
            printf '[coordinator]\nhost=%s\nport=%s\nuser=%s\ndbname=%s\n' \
                "$coordinator_host" "$coordinator_port" "$user" "$database"
        fi
    } >"$run_dir/services"
}

# Where this node listens to itself.
own_address() {
    addresses=$(show_setting listen_addresses | tr -d ' ')
    case ",$addresses," in
        *,\*,* | *,0.0.0.0,* | *,127.0.0.1,* | *,localhost,*) echo 127.0.0.1 ;;
        *,::,*) echo ::1 ;;
        *) printf '%s\n' "${addresses%%,*}" ;;
    esac
}

lock_data_directory() {
    mkdir -p "$PGDATA" 2>/dev/null && [ -w "$PGDATA" ] ||
        refuse "PGDATA='$PGDATA' cannot be written to by $(id -un)" "give it to this user"
    chmod 700 "$PGDATA" || refuse "PGDATA='$PGDATA' belongs to somebody else" "give it to $(id -un)"
    command -v flock >/dev/null || return 0
    # Held by the server's processes too: a second start also waits for what a kill left behind.
    exec 9>>"$PGDATA/citus-node.lock"
    flock -n 9 || refuse "another node runs on PGDATA='$PGDATA'" "stop it first, or name another directory"
}

# After a kill the number in a lock file of PostgreSQL's may be that of any process, in a container above all, where
# numbers are small; PostgreSQL then refuses to start. For a process that is PostgreSQL its own rule holds.
forget_stale_numbers() {
    for lock_file; do
        number=$(head -n 1 "$lock_file" 2>/dev/null) && [ -r "/proc/${number:=none}/stat" ] || continue
        what=$(sed 's/^[0-9]* (\(.*\)) \(.\).*/\2 \1/' "/proc/$number/stat" 2>/dev/null) || continue
        case $what in
            'Z '* | 'X '*) ;; # ended, and nobody has asked how
            *' postgres'*) continue ;;
        esac
        say "$lock_file names process $number, which is no running PostgreSQL: removed"
        rm -f "$lock_file"
    done
}

# Before anything is made in PGDATA, or given to another user.
refuse_foreign_directory() {
    { [ -d "$PGDATA" ] && [ ! -s "$PGDATA/PG_VERSION" ] && [ ! -e "$PGDATA/$making/complete" ]; } || return 0
    others=$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name citus-node.lock ! -name "$making" | head -n 1)
    [ -z "$others" ] || refuse "PGDATA='$PGDATA' is no data directory, and not empty" "it has ${others##*/}; name another"
}

make_data_directory() {
    refuse_foreign_directory
    lock_data_directory
    forget_stale_numbers "$PGDATA/postmaster.pid" "$run_dir/.s.PGSQL.$port.lock"
    is_new=no
    if [ -s "$PGDATA/PG_VERSION" ]; then
        rm -rf "${PGDATA:?}/$making"
        check_version
        return
    fi
    is_new=yes
    if [ ! -e "$PGDATA/$making/complete" ]; then
        rm -rf "${PGDATA:?}/$making"
        run_initdb
        : >"$PGDATA/$making/complete"
    fi
    # PG_VERSION comes last: a directory that has it is whole.
    for entry in "$PGDATA/$making/data"/*; do
        [ "${entry##*/}" = PG_VERSION ] || mv "$entry" "$PGDATA/"
    done
    [ "$(setting fsync)" = off ] || sync "$PGDATA"
    mv "$PGDATA/$making/data/PG_VERSION" "$PGDATA/"
    [ "$(setting fsync)" = off ] || sync "$PGDATA"
    rm -rf "${PGDATA:?}/$making"
    # No start-up script of the official image is run: what they do is done here.
    if [ -n "$(find /docker-entrypoint-initdb.d -type f ! -name 001-create-citus-extension.sql 2>/dev/null)" ]; then
        say "files in /docker-entrypoint-initdb.d are not run: docs/roles.md"
    fi
}

check_version() {
    found=$(cat "$PGDATA/PG_VERSION")
    ours=$("${bindir}postgres" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
    [ "$found" = "$ours" ] ||
        refuse "PGDATA='$PGDATA' was made by PostgreSQL $found, and this is PostgreSQL $ours" "use its image, or pg_upgrade"
}

# The same order of text on every node, whatever its libc knows.
run_initdb() {
    no_sync=
    [ "$(setting fsync)" != off ] || no_sync=--no-sync
    say "making a data directory in $PGDATA"
    "${bindir}initdb" -D "$PGDATA/$making/data" --username="$user" --pwfile="$run_dir/password" \
        --auth=scram-sha-256 --data-checksums --encoding=UTF8 --locale=C --locale-provider=builtin \
        --builtin-locale=C.UTF-8 --no-instructions $no_sync >"$run_dir/said" 2>&1 || {
        cat "$run_dir/said" >&2
        rm -rf "${PGDATA:?}/$making"
        give_up "initdb failed; its own words are above"
    }
}

include_settings() {
    grep -qx "include_if_exists = '$settings_file'" "$PGDATA/postgresql.conf" ||
        printf "include_if_exists = '%s'\n" "$settings_file" >>"$PGDATA/postgresql.conf"
}
