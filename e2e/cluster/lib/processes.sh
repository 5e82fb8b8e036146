# shellcheck shell=bash
# The running programs of one cluster: pid files, logs, waiting, ending.
# Sourced by ../cluster, which sets $state.

# start PROGRAM COMMAND...: runs it in the background, with its own log.
# $enter, when set, is a command that enters the cluster's namespaces.
start() {
    local program=$1
    shift
    # The new process writes its own pid file before it becomes the program,
    # so that even a crash of this script leaves none that `down` does not
    # know. A session of its own keeps it from a terminal's Ctrl-C. The
    # locks are not inherited: they end with this script.
    setsid ${enter[@]+"${enter[@]}"} bash -c '
        read -r stat </proc/self/stat
        read -ra fields <<<"${stat##*) }"
        echo "$$ ${fields[19]}" >"$1.new" && mv "$1.new" "$1"
        cd "$2"
        shift 2
        exec "$@"' bash "$state/run/$program.pid" "$state" "$@" \
        </dev/null >"$state/logs/$program.log" 2>&1 8>&- 9>&- &
    disown
    until [[ -f $state/run/$program.pid ]]; do
        kill -0 "$!" 2>/dev/null || [[ -f $state/run/$program.pid ]] ||
            give_up "$state/logs/$program.log" "$program does not start"
        sleep 0.02
    done
}

programs_started() {
    local file
    for file in "$state"/run/*.pid; do
        [[ -f $file ]] || continue
        file=${file##*/}
        echo "${file%.pid}"
    done
}

pid_of() {
    local pid began
    read -r pid began <"$state/run/$1.pid"
    echo "$pid"
}

# is_alive PROGRAM: a pid counts only with the start time it was noted with,
# since the kernel gives the pids of ended processes to others.
is_alive() {
    local pid began stat fields
    read -r pid began <"$state/run/$1.pid" || return 1
    read -r stat 2>/dev/null <"/proc/$pid/stat" || return 1
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != Z && ${fields[19]} == "$began" ]]
}

# end_programs: kills the programs. No state outlives the cluster, so they need
# no graceful shutdown. Their children are in their process groups.
end_programs() {
    local program tries
    for program in $(programs_started); do
        if is_alive "$program"; then kill -KILL -- "-$(pid_of "$program")" 2>/dev/null || true; fi
    done
    for program in $(programs_started); do
        for ((tries = 0; tries < 100; tries++)); do
            is_alive "$program" || break
            sleep 0.1
        done
        if is_alive "$program"; then fail "$program does not end"; fi
    done
}

# wait_until PROGRAM WHAT COMMAND...: waits for COMMAND to succeed, as long as
# all programs run; PROGRAM is the one whose log is printed on failure.
wait_until() {
    local responsible=$1 what=$2 began=$SECONDS said=0 program
    shift 2
    # In a subshell, so that the output of a trap is not silenced with it.
    until ("$@") >/dev/null 2>&1; do
        for program in $(programs_started); do
            is_alive "$program" || give_up "$state/logs/$program.log" "$program ended"
        done
        if ((SECONDS - began >= 180)); then give_up "$state/logs/$responsible.log" "no $what after 180 s"; fi
        if ((SECONDS - began >= said + 5)); then
            said=$((SECONDS - began))
            say "waiting for $what: $said s"
        fi
        sleep 0.2
    done
    if ((SECONDS > began)); then say "$what: there after $((SECONDS - began)) s"; fi
}

# give_up LOG MESSAGE
give_up() {
    say "the last lines of $1:"
    tail -n 20 "$1" >&2
    fail "$2"
}
