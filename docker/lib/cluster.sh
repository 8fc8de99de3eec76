# shellcheck shell=sh
# The node's place in its cluster: who it is, how it registers itself, whether it is healthy.

# Pauses between two tries, in seconds; the last one stays.
pauses='0.25 0.5 1 2 4 8 15 30'

# read_identity SERVICE: what a node says of itself.
#   group: 0 for a coordinator and for a node that no coordinator knows; own_id: drawn by CREATE EXTENSION;
#   cluster, cluster_host: the coordinator's own_id and address, kept when this node joined; joined_as: under which name
#   place_of_0: what it knows as the coordinator; started: when its server was
read_identity() {
    ask "$1" identity.sql || return
    IFS='|' read -r group own_id cluster cluster_host joined_as place_of_0 started <<EOF
$answer
EOF
}

# In the closed server, before anybody can get in.
prepare_citus() {
    must ask socket extension.sql
    if [ "$answer" != same ]; then
        say "the extension citus in '$database' is of another version than its library:" \
            "ALTER EXTENSION citus UPDATE on every node; until then this node does not register itself"
        return
    fi
    must read_identity socket
    if [ "$role" = coordinator ]; then
        [ "$group" = 0 ] ||
            refuse "PGDATA='$PGDATA' is worker group $group of the cluster of ${cluster_host:-$place_of_0}, and CITUS_ROLE is coordinator" \
                "set CITUS_ROLE=worker, or name another directory"
        [ -n "$place_of_0" ] || must ask socket register_coordinator.sql "host=$node_host" "port=$node_port"
    elif [ "$group" = 0 ] && [ -n "$place_of_0" ]; then
        refuse "PGDATA='$PGDATA' is the coordinator $place_of_0, and CITUS_ROLE is worker" \
            "set CITUS_ROLE=coordinator, or name another directory"
    fi
}

# In the open server, beside it, until it is done. An answer that no waiting can mend stops the node.
keep_registering() {
    trap - EXIT USR1 HUP
    trap '[ -z "$child" ] || kill "$child" 2>/dev/null; exit 0' TERM INT QUIT
    said=$run_dir/registering
    try=0
    # shellcheck disable=SC2086 # a list of words
    set -- $pauses
    until register; do
        try=$((try + 1))
        say "not registered yet (try $try): ${reason:-no reason was given}; again in $1 s"
        sleep "$1" &
        child=$!
        wait "$child" || :
        child=
        [ $# = 1 ] || shift
    done
    say "ready: $role $node_host:$node_port$([ "$role" = coordinator ] || echo " of the cluster of $coordinator_host:$coordinator_port")"
}

# stop_for_good MESSAGE HINT: as refuse, from the loop.
stop_for_good() {
    say "$1: $2"
    kill -s USR1 "$$"
    exit 2
}

register() {
    read_identity self || return
    case $role in
        coordinator) ask self register_coordinator.sql "host=$node_host" "port=$node_port" ;;
        worker) register_worker ;;
    esac
}

# look_at_coordinator: what it knows of this node.
#   place_of_mine: the address that it has for our group; group_at_mine: the group that it has at our address
look_at_coordinator() {
    where=$coordinator_host:$coordinator_port
    ask coordinator coordinator.sql "group=$group" "host=$node_host" "port=$node_port" || return
    IFS='|' read -r its_group its_id its_place place_of_mine group_at_mine is_synced <<EOF
$answer
EOF
    if [ "$its_group" = none ]; then
        reason="$where has no Citus"
        return 1
    elif [ "$its_id" = "$own_id" ]; then
        stop_for_good "CITUS_COORDINATOR_HOST='$coordinator_host' with port $coordinator_port is this worker itself" \
            "name the coordinator's host"
    elif [ "$its_group" != 0 ]; then
        stop_for_good "$where is a worker of the cluster of $its_place" "name the coordinator in CITUS_COORDINATOR_HOST"
    elif [ -z "$its_place" ]; then
        reason="$where has not registered itself as a coordinator"
        return 1
    fi
}

register_worker() {
    mine=$node_host:$node_port
    look_at_coordinator || return
    if [ "$group" != 0 ] && [ -n "$cluster" ] && [ "$cluster" != "$its_id" ]; then
        stop_for_good "PGDATA='$PGDATA' is worker group $group of the cluster of $cluster_host ($cluster), and $where is another cluster ($its_id)" \
            "name its own coordinator in CITUS_COORDINATOR_HOST, or another directory in PGDATA"
    elif [ "$group" != 0 ] && [ -z "$cluster" ] && [ "$place_of_mine" != "$mine" ]; then
        stop_for_good "PGDATA='$PGDATA' is worker group $group of the cluster of $place_of_0, and $where does not know group $group as $mine" \
            "start it under its old name once, or name another directory in PGDATA"
    elif [ "$group" != 0 ] && [ "$place_of_mine" = "$mine" ]; then
        remember
    elif [ "$group" != 0 ] && [ -n "$place_of_mine" ]; then
        move
    elif [ -n "$group_at_mine" ] && [ "$group_at_mine" != "$group" ]; then
        # After a try of ours the coordinator may know more than we do, for as long as its transaction takes.
        if [ "$cluster" = "$its_id" ] && [ "$joined_as" = "$mine" ]; then
            reason="$where knows $mine as group $group_at_mine, this node does not yet"
            return 1
        fi
        stop_for_good "$where knows $mine as group $group_at_mine, whose data are not in PGDATA='$PGDATA'" \
            "bring its data back, or choose another CITUS_NODE_HOST, or SELECT citus_remove_node('$node_host', $node_port) there"
    else
        join
    fi && check_place
}

remember() {
    [ "$cluster" = "$its_id" ] && [ "$joined_as" = "$mine" ] && [ "$cluster_host" = "$where" ] ||
        ask self remember.sql "cluster=$its_id" "coordinator=$where" "node=$mine"
}

join() {
    [ "$group" = 0 ] || say "$where does not know group $group any more: joining again"
    cluster=$its_id joined_as=$mine cluster_host=$where
    ask self remember.sql "cluster=$its_id" "coordinator=$where" "node=$mine" || return
    ask coordinator join.sql "host=$node_host" "port=$node_port"
}

# The coordinator is told the new address, unless another server answers at the old one and is us as well.
move() {
    old_host=${place_of_mine%:*}
    old_port=${place_of_mine##*:}
    printf '[old]\nhost=%s\nport=%s\nuser=%s\ndbname=%s\nconnect_timeout=3\n' \
        "$old_host" "$old_port" "$user" "$database" >"$run_dir/services.old"
    was_group=$group was_id=$own_id was_started=$started
    PGSERVICEFILE=$run_dir/services.old
    ! read_identity old || [ "$own_id" != "$was_id" ] || [ "$started" = "$was_started" ] ||
        stop_for_good "two nodes are group $was_group: $place_of_mine answers, and this one on PGDATA='$PGDATA' is a copy of it" \
            "stop one of them"
    PGSERVICEFILE=$run_dir/services
    group=$was_group own_id=$was_id
    say "telling $where that group $group moved from $place_of_mine to $mine"
    ask coordinator move.sql "group=$group" "host=$node_host" "port=$node_port" || return
    remember
}

# Registered is who knows it himself, and whom the coordinator has brought up to date.
check_place() {
    ask coordinator coordinator.sql "group=0" "host=$node_host" "port=$node_port" || return
    is_synced=${answer##*|}
    if [ "$is_synced" != t ]; then
        reason="$where has not brought $mine up to date"
        return 1
    fi
    ask self place.sql "host=$node_host" "port=$node_port" || return
    if [ "$answer" != t ]; then
        reason="$where has registered $mine, and it is not this node that was reached there"
        return 1
    fi
}

# What `citus-node health` needs to know.
write_state() {
    case $enable in
        yes) echo "$role" ;;
        no) echo plain ;;
    esac >"$run_dir/state"
}

unhealthy() {
    say "unhealthy: $1"
    exit 1
}

check_health() {
    read_place
    export PGSERVICEFILE="$run_dir/services"
    [ -r "$run_dir/state" ] || unhealthy "the node is not ready yet"
    answer_deadline_s=4
    umask 077
    said=$run_dir/health.$$
    trap 'rm -f "$said.out" "$said.err"' EXIT
    state=$(cat "$run_dir/state")
    ask self "health_$state.sql" || unhealthy "$reason"
    [ "$answer" = t ] || unhealthy "this node is registered nowhere as an active $state"
    if [ "$state" = worker ]; then
        # A coordinator that is away makes no worker ill; one that answers knows better than the worker's own copy.
        answer_deadline_s=2
        ask self identity.sql && group=${answer%%|*}
        if ask coordinator health_known.sql "group=$group" && [ "$answer" != t ]; then
            unhealthy "the coordinator does not have this node as an active worker"
        fi
    fi
    echo "healthy: $state"
}
