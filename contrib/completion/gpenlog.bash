# Completion of gpenlog in bash, made from its usage text by
#   python -m gpen.netlog.completion gpenlog bash

# What the argument of option $2 of command $1 is; fails for an option without one.
_gpenlog_value() {
    case "$1 $2" in

        *) return 1 ;;
    esac
}

# The options of command $1.
_gpenlog_options() {
    case $1 in
        "") echo "-h --help --version" ;;
    esac
}

# COMP_WORDS would fall apart at each colon of an address.
_gpenlog() {
    local line=${COMP_LINE:0:COMP_POINT} words cur command="" option how
    read -ra words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]} option=${words[${#words[@]} - 2]}
    COMPREPLY=()
    if [[ $cur == --*=* ]]; then
        option=${cur%%=*} cur=${cur#*=}
    fi
    if how=$(_gpenlog_value "$command" "$option"); then
        case $how in
            FILE) compopt -o filenames 2>/dev/null; how=(-f) ;;
            DIR) compopt -o filenames 2>/dev/null; how=(-d) ;;
            USER) how=(-u) ;;
            *) how=(-W "$how") ;;
        esac
    elif [[ $cur == -* ]]; then
        how=(-W "$(_gpenlog_options "$command")")
    elif [[ ! $command ]]; then
        how=(-W "")
    else
        return
    fi
    mapfile -t COMPREPLY < <(compgen "${how[@]}" -- "$cur")
}

complete -F _gpenlog gpenlog
