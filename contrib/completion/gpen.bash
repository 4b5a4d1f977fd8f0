# Completion of gpen and gpenctl in bash, made from gpen's command table by
#   python -m gpen.docs.completion bash

_gpen_names="abort_on_error abuse accept_proxy acl ascii backlog blacklist block check check_fall check_interval check_rise check_timeout chroot client client_acl client_max clients_max close conn_max conn_max_total connection control control_access control_acl control_mode debug delayed_forward drain drain_timeout dummy emergency epoll events exit exit_enabled explain foreground freebind geoip_db greeting half_closed_timeout handover hash health_ttl help hold hold_max http http_head_timeout http_header_max idle_timeout idlers include info keepalive kqueue leastconn listen listener listeners log log_format metrics metrics_acl metrics_control metrics_token mode multi_accept mysql name_refresh on_down peek peer peers peers_ca peers_certificate pending_max pid pid_file poll prio proxy_protocol random ready recent reload roundrobin select server servers sessions socket source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_client_renegotiation_interval ssl_compat ssl_handshake ssl_key ssl_option ssl_protocol ssl_require_peer ssl_sni_path state stateless status stay stubborn tcp_fastclose tcp_nodelay timeout tracking tracking_with udp udp_replies udp_timeout udp_unanswered upgrade user user_timeout web_stats weight workers write"

# What may follow: $1 is the command, $2 how many words stand behind it, $3 the last of them.
_gpen_after() {
    case "$1 $2 $3" in
        "accept_proxy 0 "*) echo "off" ;;
        "acl 1 "*) echo "permit deny" ;;
        "acl 2 "*) echo "country" ;;
        "check 0 "*) echo "off connect greeting send exec" ;;
        "chroot 0 "*) echo "DIR" ;;
        "client 0 "*) ;;
        "client 1 "*) echo "server" ;;
        "client 2 "*) ;;
        "client "*" idle") ;;
        "client "*) echo "idle" ;;
        "close 0 "*) echo "server" ;;
        "close 1 "*) ;;
        "close "*" at") ;;
        "close "*) echo "at" ;;
        "connection 0 "*) ;;
        "connection "*" json") ;;
        "connection "*) echo "json" ;;
        "control_access 0 "*) echo "admin operate view" ;;
        "drain 0 "*) ;;
        "drain "*" close") ;;
        "drain "*) echo "close" ;;
        "events "*" json") ;;
        "events "*) echo "json" ;;
        "explain 0 "*) ;;
        "explain "*" json") ;;
        "explain "*) echo "json" ;;
        "geoip_db 0 "*) echo "FILE" ;;
        "help 0 "*) echo "NAME" ;;
        "help "*" json") ;;
        "help "*) echo "json" ;;
        "include 0 "*) echo "FILE" ;;
        "info "*" json") ;;
        "info "*) echo "json" ;;
        "listeners "*" json") ;;
        "listeners "*) echo "json" ;;
        "log 0 "*) echo "FILE" ;;
        "log_format 0 "*) echo "session pen json" ;;
        "metrics_acl 0 "*) echo "off" ;;
        "metrics_control 0 "*) echo "off on" ;;
        "metrics_token 0 "*) echo "FILE" ;;
        "mode "*" json") ;;
        "mode "*) echo "json" ;;
        "on_down 0 "*) echo "keep close" ;;
        "peer 0 "*) echo "NAME" ;;
        "peers 0 "*) echo "NAME" ;;
        "peers 1 "*) ;;
        "peers "*" json") ;;
        "peers "*) echo "json" ;;
        "peers_ca 0 "*) echo "FILE" ;;
        "peers_certificate 0 "*) echo "FILE" ;;
        "pid_file 0 "*) echo "FILE" ;;
        "proxy_protocol 0 "*) echo "off v1 v2" ;;
        "ready 0 "*) echo "LISTENER" ;;
        "ready "*" json") ;;
        "ready "*) echo "json" ;;
        "recent "*" json") ;;
        "recent "*) echo "json" ;;
        "server 0 "*) ;;
        "server "*" at") ;;
        "server "*" address") ;;
        "server "*" port") ;;
        "server "*" max") ;;
        "server "*" hard") ;;
        "server "*" weight") ;;
        "server "*" prio") ;;
        "server "*" acl") ;;
        "server "*" blacklist") ;;
        "server "*" state") echo "ready drain maint" ;;
        "server "*" check") echo "default" ;;
        "server "*" owner") echo "default" ;;
        "server "*" health") echo "up drain down" ;;
        "server "*" failed") ;;
        "server "*" checked") echo "up drain down" ;;
        "server "*) echo "at address port max hard weight prio acl blacklist state check owner health failed checked" ;;
        "servers "*" json") ;;
        "servers "*) echo "json" ;;
        "sessions "*" json") ;;
        "sessions "*) echo "json" ;;
        "ssl_ca_file 0 "*) echo "FILE" ;;
        "ssl_ca_path 0 "*) echo "DIR" ;;
        "ssl_certificate 0 "*) echo "FILE" ;;
        "ssl_key 0 "*) echo "FILE" ;;
        "ssl_option 0 "*) echo "no_tlsv1.2 no_tlsv1.3 no_ticket" ;;
        "ssl_protocol 0 "*) echo "tls1.2 tls1.3" ;;
        "ssl_sni_path 0 "*) echo "DIR" ;;
        "tcp_fastclose 0 "*) echo "off up down both" ;;
        "tracking_with 0 "*) echo "LISTENER" ;;
        "user 0 "*) echo "USER" ;;
        "web_stats 0 "*) echo "FILE" ;;
        "workers 0 "*) echo "auto" ;;
        "workers "*" json") ;;
        "workers "*) echo "json" ;;
        "write 0 "*) echo "FILE" ;;
    esac
}

# The same behind listener NAME.
_gpen_after_listener() {
    case "$1 $2 $3" in
        "close 0 "*) echo "server" ;;
        "close 1 "*) ;;
        "close "*" at") ;;
        "close "*) echo "at" ;;
        "inherit 0 "*) echo "conn_max client_max backlog freebind multi_accept pending_max client_acl tracking roundrobin prio weight leastconn random stateless hash stubborn emergency abuse udp udp_timeout udp_replies udp_unanswered on_down timeout idle_timeout half_closed_timeout greeting mysql hold hold_max proxy_protocol accept_proxy source tcp_fastclose tcp_nodelay keepalive user_timeout dummy http http_header_max http_head_timeout ssl_certificate ssl_key ssl_ca_file ssl_ca_path ssl_require_peer ssl_protocol ssl_ciphers ssl_option ssl_sni_path ssl_alpn ssl_handshake ssl_compat ssl_client_renegotiation_interval log log_format server" ;;
        "server 0 "*) ;;
        "server "*" max") ;;
        "server "*" weight") ;;
        "server "*" prio") ;;
        "server "*" port") ;;
        "server "*) echo "max weight prio port" ;;
        "servers 0 "*) echo "all" ;;
        "servers "*" json") ;;
        "servers "*) echo "json" ;;
        *) _gpen_after "$@" ;;
    esac
}

# The names of the listeners of the gpen at $2; $1 is gpenctl. Nothing but names may come from there:
# bash expands what it offers.
_gpen_listeners() {
    "$1" -f plain -t 2 "$2" listeners 2>/dev/null | LC_ALL=C sed -nE 's/^([A-Za-z0-9][A-Za-z0-9_.-]*) listen .*/\1/p'
}

# What the argument of option $1 is; fails for an option without one.
_gpen_value() {
    case $1 in
        -A | -j) echo "DIR" ;;
        -b | -B | -c | -e | -m | -q | -T | -t | -x) ;;
        -C | -E | -F | -G | -K | -l | -p | -w) echo "FILE" ;;
        -L) echo "tls1.2 tls1.3" ;;
        -O | -o) echo "NAME" ;;
        -u) echo "USER" ;;
        *) return 1 ;;
    esac
}

_gpenctl_value() {
    case $1 in
        -f | --format) echo "table plain json csv" ;;
        -t | --timeout) ;;
        --color) echo "auto always never" ;;
        *) return 1 ;;
    esac
}

# Sets words and cur. COMP_WORDS would fall apart at each colon of an address.
_gpen_words() {
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]}
}

# Fills COMPREPLY with what begins with cur; $1 is a kind of value, or the words to choose from.
_gpen_reply() {
    local how=(-W "$1")
    case $1 in
        FILE) how=(-f) ;;
        DIR) how=(-d) ;;
        USER) how=(-u) ;;
        NAME) how=(-W "$_gpen_names") ;;
        LISTENER) how=(-W "$(_gpen_listeners "${words[0]}" "${words[target]/#\~\//$HOME/}")") ;;
    esac
    [[ $1 == FILE || $1 == DIR ]] && compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen "${how[@]}" -- "$cur")
}

_gpen() {
    local words cur wanted
    COMPREPLY=()
    _gpen_words
    if wanted=$(_gpen_value "${words[${#words[@]} - 2]}"); then
        _gpen_reply "$wanted"
    elif [[ $cur == -* ]]; then
        _gpen_reply "--check --help --replace --version -A -a -b -B -c -C -d -e -E -f -F -G -h -H -j -K -L -l -m -O -o -p -q -r -R -s -T -t -U -u -W -w -x -X"
    elif [[ $cur == [/.~]* ]]; then
        _gpen_reply FILE
    fi
}

_gpenctl() {
    local words cur last target wanted
    COMPREPLY=()
    _gpen_words
    last=$((${#words[@]} - 1))
    for ((target = 1; target < last; target++)); do
        [[ ${words[target]} == -* ]] || break
        _gpenctl_value "${words[target]}" >/dev/null && ((target++))
    done
    if ((target > last)); then
        _gpen_reply "$(_gpenctl_value "${words[last - 1]}")"
    elif ((target < last)); then
        _gpenctl_command "${words[@]:target + 1}"
    elif [[ $cur == --*=* ]] && wanted=$(_gpenctl_value "${cur%%=*}"); then
        cur=${cur#*=}
        _gpen_reply "$wanted"
    elif [[ $cur == -* ]]; then
        _gpen_reply "-f --format -t --timeout --color -h --help --version"
    else
        _gpen_reply FILE
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -G "/run/gpen/*.ctl" | grep -F -- "$cur")
    fi
}

# The words of a command, up to cur.
_gpenctl_command() {
    if (($# == 1)); then
        _gpen_reply "$_gpen_names no top watch"
    elif [[ $1 == listener ]]; then
        _gpenctl_listener "${@:2}"
    elif [[ $1 != no ]]; then
        _gpen_reply "$(_gpen_after "$1" $(($# - 2)) "${words[${#words[@]} - 2]}")"
    elif (($# == 2)); then
        _gpen_reply "abort_on_error abuse accept_proxy acl ascii backlog blacklist block check check_fall check_interval check_rise check_timeout chroot client client_acl client_max clients_max conn_max conn_max_total control control_access control_acl control_mode debug delayed_forward drain_timeout dummy emergency epoll exit_enabled foreground freebind geoip_db greeting half_closed_timeout hash health_ttl hold hold_max http http_head_timeout http_header_max idle_timeout idlers keepalive kqueue leastconn listen listener log log_format metrics metrics_acl metrics_control metrics_token multi_accept mysql name_refresh on_down peek peer peers peers_ca peers_certificate pending_max pid_file poll prio proxy_protocol random roundrobin select server source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_client_renegotiation_interval ssl_compat ssl_handshake ssl_key ssl_option ssl_protocol ssl_require_peer ssl_sni_path stateless stubborn tcp_fastclose tcp_nodelay timeout tracking tracking_with udp udp_replies udp_timeout udp_unanswered user user_timeout web_stats weight workers"
    elif (($# == 3)) && [[ $2 == listener ]]; then
        _gpen_reply LISTENER
    fi
}

# The words behind listener, up to cur.
_gpenctl_listener() {
    if (($# == 1)); then
        _gpen_reply LISTENER
    elif (($# == 2)); then
        _gpen_reply "abuse accept_proxy backlog client client_acl client_max close conn_max dummy emergency events explain freebind greeting half_closed_timeout hash hold hold_max http http_head_timeout http_header_max idle_timeout inherit keepalive leastconn listen log log_format mode multi_accept mysql on_down pending_max prio proxy_protocol random recent roundrobin server servers sessions source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_client_renegotiation_interval ssl_compat ssl_handshake ssl_key ssl_option ssl_protocol ssl_require_peer ssl_sni_path stateless stubborn tcp_fastclose tcp_nodelay timeout tracking tracking_with udp udp_replies udp_timeout udp_unanswered user_timeout weight no"
    elif [[ $2 != no ]]; then
        _gpen_reply "$(_gpen_after_listener "$2" $(($# - 3)) "${words[${#words[@]} - 2]}")"
    elif (($# == 3)); then
        _gpen_reply "abuse accept_proxy backlog client client_acl client_max conn_max dummy emergency freebind greeting half_closed_timeout hash hold hold_max http http_head_timeout http_header_max idle_timeout keepalive leastconn listen log log_format multi_accept mysql on_down pending_max prio proxy_protocol random roundrobin source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_client_renegotiation_interval ssl_compat ssl_handshake ssl_key ssl_option ssl_protocol ssl_require_peer ssl_sni_path stateless stubborn tcp_fastclose tcp_nodelay timeout tracking tracking_with udp udp_replies udp_timeout udp_unanswered user_timeout weight"
    fi
}

complete -F _gpen gpen
complete -F _gpenctl gpenctl
