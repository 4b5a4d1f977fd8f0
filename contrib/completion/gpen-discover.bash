# Completion of gpen-discover in bash, made from its usage text by
#   python -m gpen.discover.completion bash

# What the argument of option $2 of command $1 is; fails for an option without one.
_gpen_discover_value() {
    case "$1 $2" in
        "file --format") echo "auto json lines yaml" ;;
        "file --gpen" | "file --socket" | "dns --gpen" | "dns --socket" | "etcd --login" | "etcd --ca" | "etcd --cert" | "etcd --key" | "etcd --gpen" | "etcd --socket" | "consul --token" | "consul --ca" | "consul --cert" | "consul --key" | "consul --gpen" | "consul --socket" | "kubernetes --token" | "kubernetes --ca" | "kubernetes --cert" | "kubernetes --key" | "kubernetes --gpen" | "kubernetes --socket" | "status --socket") echo "FILE" ;;
        "file --owner" | "file --numbers" | "file --floor" | "file --drain" | "dns --port" | "dns --nameserver" | "dns --ttl-min" | "dns --ttl-max" | "dns --owner" | "dns --numbers" | "dns --floor" | "dns --drain" | "etcd --etcd" | "etcd --owner" | "etcd --numbers" | "etcd --floor" | "etcd --drain" | "consul --consul" | "consul --tag" | "consul --datacenter" | "consul --namespace" | "consul --owner" | "consul --numbers" | "consul --floor" | "consul --drain" | "kubernetes --namespace" | "kubernetes --port-name" | "kubernetes --address-type" | "kubernetes --kubernetes" | "kubernetes --owner" | "kubernetes --numbers" | "kubernetes --floor" | "kubernetes --drain") echo "" ;;
        "kubernetes --service-account") echo "DIR" ;;
        *) return 1 ;;
    esac
}

# The options of command $1.
_gpen_discover_options() {
    case $1 in
        "") echo "-h --help --version" ;;
        file) echo "--format --gpen --owner --numbers --floor --drain --allow-empty --socket -h --help" ;;
        dns) echo "--port --srv --ipv4 --ipv6 --nameserver --ttl-min --ttl-max --gpen --owner --numbers --floor --drain --allow-empty --socket -h --help" ;;
        etcd) echo "--etcd --login --ca --cert --key --gpen --owner --numbers --floor --drain --allow-empty --socket -h --help" ;;
        consul) echo "--consul --token --tag --datacenter --namespace --ca --cert --key --gpen --owner --numbers --floor --drain --allow-empty --socket -h --help" ;;
        kubernetes) echo "--namespace --port-name --address-type --service-account --kubernetes --token --ca --cert --key --gpen --owner --numbers --floor --drain --allow-empty --socket -h --help" ;;
        status) echo "--socket --json -h --help" ;;
    esac
}

# COMP_WORDS would fall apart at each colon of an address.
_gpen_discover() {
    local line=${COMP_LINE:0:COMP_POINT} words cur command="" option how
    read -ra words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]} option=${words[${#words[@]} - 2]}
    COMPREPLY=()
    ((${#words[@]} > 2)) && command=${words[1]}
    if [[ $cur == --*=* ]]; then
        option=${cur%%=*} cur=${cur#*=}
    fi
    if how=$(_gpen_discover_value "$command" "$option"); then
        case $how in
            FILE) compopt -o filenames 2>/dev/null; how=(-f) ;;
            DIR) compopt -o filenames 2>/dev/null; how=(-d) ;;
            USER) how=(-u) ;;
            *) how=(-W "$how") ;;
        esac
    elif [[ $cur == -* ]]; then
        how=(-W "$(_gpen_discover_options "$command")")
    elif [[ ! $command ]]; then
        how=(-W "file dns etcd consul kubernetes status")
    else
        return
    fi
    mapfile -t COMPREPLY < <(compgen "${how[@]}" -- "$cur")
}

complete -F _gpen_discover gpen-discover
