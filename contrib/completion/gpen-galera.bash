# Completion of gpen-galera in bash, made from its usage text by
#   python -m gpen.galera.completion bash

# What the argument of option $2 of command $1 is; fails for an option without one.
_gpen_galera_value() {
    case "$1 $2" in
        "watch --gpen" | "watch --writer" | "watch --reader" | "watch --defaults-file" | "watch --ssl-ca" | "watch --listen" | "watch --metrics" | "watch --socket" | "status --socket" | "move --socket" | "adopt --socket" | "check --defaults-file" | "check --ssl-ca" | "serve --defaults-file" | "serve --ssl-ca") echo "FILE" ;;
        "watch --interval" | "watch --timeout" | "watch --max-queue" | "watch --prefer" | "watch --quiet" | "watch --agree" | "watch --reserve" | "watch --map" | "watch --floor" | "watch --forget" | "check --timeout" | "serve --node" | "serve --interval" | "serve --timeout" | "notify --to") echo "" ;;
        "watch --donor") echo "avoid use never" ;;
        *) return 1 ;;
    esac
}

# The options of command $1.
_gpen_galera_options() {
    case $1 in
        "") echo "-h --help --version" ;;
        watch) echo "--gpen --writer --reader --defaults-file --ssl-ca --interval --timeout --donor --max-queue --prefer --failback --keep-sessions --keep-old-sessions --quiet --agree --reserve --discover --map --floor --forget --listen --metrics --socket --verbose -h --help" ;;
        status) echo "--socket --json -h --help" ;;
        move) echo "--socket -h --help" ;;
        adopt) echo "--socket -h --help" ;;
        check) echo "--defaults-file --ssl-ca --timeout --available-when-donor --available-when-readonly -h --help" ;;
        serve) echo "--node --defaults-file --ssl-ca --interval --timeout --available-when-donor --available-when-readonly -h --help" ;;
        notify) echo "--to -h --help" ;;
    esac
}

# COMP_WORDS would fall apart at each colon of an address.
_gpen_galera() {
    local line=${COMP_LINE:0:COMP_POINT} words cur command="" option how
    read -ra words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]} option=${words[${#words[@]} - 2]}
    COMPREPLY=()
    ((${#words[@]} > 2)) && command=${words[1]}
    if [[ $cur == --*=* ]]; then
        option=${cur%%=*} cur=${cur#*=}
    fi
    if how=$(_gpen_galera_value "$command" "$option"); then
        case $how in
            FILE) compopt -o filenames 2>/dev/null; how=(-f) ;;
            DIR) compopt -o filenames 2>/dev/null; how=(-d) ;;
            USER) how=(-u) ;;
            *) how=(-W "$how") ;;
        esac
    elif [[ $cur == -* ]]; then
        how=(-W "$(_gpen_galera_options "$command")")
    elif [[ ! $command ]]; then
        how=(-W "watch status move adopt check serve notify")
    else
        return
    fi
    mapfile -t COMPREPLY < <(compgen "${how[@]}" -- "$cur")
}

complete -F _gpen_galera gpen-galera
