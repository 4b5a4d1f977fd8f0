# Completion of gpen and gpenctl in bash, made from gpen's command table by
#   python -m gpen.docs.completion bash

_gpen_names="abort_on_error abuse accept_proxy acl ascii backlog bandwidth bandwidth_total blacklist block check check_fall check_interval check_port check_rise check_timeout check_tls chroot client client_acl client_max client_rate clients_max close conn_max conn_max_total connection connection_rate control control_access control_acl control_mode debug delayed_forward drain drain_timeout dsr_if dsr_ip dummy emergency epoll events exit exit_enabled explain foreground freebind geoip_db greeting half_closed_timeout handover hash health_ttl help hold hold_max http http_head_timeout http_header_max idle_timeout idlers include info keepalive kqueue leastconn listen listen_mode listener listeners log log_format metrics metrics_acl metrics_control metrics_token mode multi_accept mysql name_refresh on_down on_event peek peer peers peers_ca peers_certificate pending_max pid pid_file poll prio proxy_protocol proxy_v2_options quiet random ready rebalance recent reload roundrobin route select server server_tls server_tls_alpn server_tls_ca server_tls_certificate server_tls_key server_tls_name server_tls_verify servers session_max_age sessions slowstart socket source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_client_renegotiation_interval ssl_compat ssl_handshake ssl_key ssl_key_passphrase ssl_option ssl_protocol ssl_require_peer ssl_sni_path ssl_strict_sni ssl_verify_client state stateless status stay stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking tracking_with transparent udp udp_replies udp_requests udp_timeout udp_unanswered upgrade user user_timeout web_stats weight workers write"

# What may follow: $1 is the command, $2 how many words stand behind it, $3 the last of them.
_gpen_after() {
    case "$1 $2 $3" in
        "accept_proxy 0 "*) echo "off" ;;
        "acl 1 "*) echo "permit deny" ;;
        "acl 2 "*) echo "country" ;;
        "bandwidth 0 "*) echo "off" ;;
        "bandwidth_total 0 "*) echo "off" ;;
        "check 0 "*) echo "off connect greeting send exec agent" ;;
        "check_tls 0 "*) echo "default on off" ;;
        "chroot 0 "*) echo "DIR" ;;
        "client 0 "*) ;;
        "client 1 "*) echo "server" ;;
        "client 2 "*) ;;
        "client "*" idle") ;;
        "client "*" route") echo "sni alpn host default" ;;
        "client "*) echo "idle route" ;;
        "client_rate 0 "*) echo "off" ;;
        "close 0 "*) echo "server" ;;
        "close 1 "*) ;;
        "close "*" at") ;;
        "close "*" quiet") ;;
        "close "*) echo "at quiet" ;;
        "connection 0 "*) ;;
        "connection "*" json") ;;
        "connection "*) echo "json" ;;
        "connection_rate 0 "*) echo "off" ;;
        "control_access 0 "*) echo "admin operate view" ;;
        "drain 0 "*) ;;
        "drain "*" quiet") echo "close" ;;
        "drain "*" close") ;;
        "drain "*) echo "quiet close" ;;
        "events "*" json") ;;
        "events "*) echo "json" ;;
        "explain 0 "*) ;;
        "explain "*" sni") ;;
        "explain "*" alpn") ;;
        "explain "*" host") ;;
        "explain "*" json") ;;
        "explain "*) echo "sni alpn host json" ;;
        "geoip_db 0 "*) echo "FILE" ;;
        "help 0 "*) echo "COMMAND" ;;
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
        "on_event 0 "*) echo "FILE" ;;
        "peers 0 "*) ;;
        "peers 1 "*) ;;
        "peers "*" json") ;;
        "peers "*) echo "json" ;;
        "peers_ca 0 "*) echo "FILE" ;;
        "peers_certificate 0 "*) echo "FILE" ;;
        "pid_file 0 "*) echo "FILE" ;;
        "proxy_protocol 0 "*) echo "off v1 v2" ;;
        "proxy_v2_options 0 "*) echo "ssl cert-cn ssl-cipher cert-sig cert-key authority alpn crc32c unique-id" ;;
        "ready 0 "*) echo "LISTENER" ;;
        "ready "*" json") ;;
        "ready "*) echo "json" ;;
        "rebalance "*" over") ;;
        "rebalance "*) echo "over" ;;
        "recent "*" json") ;;
        "recent "*) echo "json" ;;
        "route 0 "*) echo "sni alpn host default" ;;
        "route "*" servers") echo "all" ;;
        "route 1 default") echo "servers reject" ;;
        "route "*" reject") ;;
        "route 2 "*) echo "servers reject" ;;
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
        "server "*" check_port") echo "default" ;;
        "server "*" owner") echo "default" ;;
        "server "*" tls") echo "on off default" ;;
        "server "*" tls_name") echo "default" ;;
        "server "*" health") echo "up drain down" ;;
        "server "*" returned") ;;
        "server "*" failed") ;;
        "server "*" checked") echo "up drain down" ;;
        "server "*" answered") ;;
        "server "*) echo "at address port max hard weight prio acl blacklist state check check_port owner tls tls_name health returned failed checked answered" ;;
        "server_tls 0 "*) echo "off on" ;;
        "server_tls_ca 0 "*) echo "FILE" ;;
        "server_tls_certificate 0 "*) echo "FILE" ;;
        "server_tls_key 0 "*) echo "FILE" ;;
        "server_tls_verify 0 "*) echo "on off" ;;
        "servers "*" json") ;;
        "servers "*) echo "json" ;;
        "sessions "*" json") ;;
        "sessions "*) echo "json" ;;
        "ssl_ca_file 0 "*) echo "FILE" ;;
        "ssl_ca_path 0 "*) echo "DIR" ;;
        "ssl_certificate 0 "*) echo "FILE" ;;
        "ssl_key 0 "*) echo "FILE" ;;
        "ssl_key_passphrase 0 "*) echo "FILE" ;;
        "ssl_option 0 "*) echo "no_tlsv1.2 no_tlsv1.3 no_ticket" ;;
        "ssl_protocol 0 "*) echo "tls1.2 tls1.3" ;;
        "ssl_sni_path 0 "*) echo "DIR" ;;
        "ssl_verify_client 0 "*) echo "off optional required" ;;
        "tarpit_acl 0 "*) echo "off" ;;
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
        "close "*" quiet") ;;
        "close "*) echo "at quiet" ;;
        "inherit 0 "*) echo "conn_max client_max connection_rate client_rate bandwidth bandwidth_total backlog freebind listen_mode multi_accept pending_max client_acl tracking route roundrobin prio weight leastconn random stateless hash stubborn slowstart emergency abuse udp udp_timeout udp_replies udp_unanswered udp_requests dsr_if dsr_ip tarpit_acl on_down timeout idle_timeout half_closed_timeout quiet session_max_age greeting mysql hold hold_max proxy_protocol proxy_v2_options accept_proxy transparent source tcp_fastclose tcp_nodelay keepalive user_timeout dummy http http_header_max http_head_timeout ssl_certificate ssl_key ssl_key_passphrase ssl_ca_file ssl_ca_path ssl_require_peer ssl_verify_client ssl_protocol ssl_ciphers ssl_option ssl_sni_path ssl_strict_sni ssl_alpn ssl_handshake ssl_compat ssl_client_renegotiation_interval server_tls server_tls_ca server_tls_verify server_tls_name server_tls_certificate server_tls_key server_tls_alpn log log_format server" ;;
        "rebalance "*" over") ;;
        "rebalance "*) echo "over" ;;
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
        -O | -o) echo "COMMAND" ;;
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
        COMMAND) how=(-W "$_gpen_names") ;;
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
        _gpen_reply "abort_on_error abuse accept_proxy acl ascii backlog bandwidth bandwidth_total blacklist block check check_fall check_interval check_port check_rise check_timeout check_tls chroot client client_acl client_max client_rate clients_max conn_max conn_max_total connection_rate control control_access control_acl control_mode debug delayed_forward drain_timeout dsr_if dsr_ip dummy emergency epoll exit_enabled foreground freebind geoip_db greeting half_closed_timeout hash health_ttl hold hold_max http http_head_timeout http_header_max idle_timeout idlers keepalive kqueue leastconn listen listen_mode listener log log_format metrics metrics_acl metrics_control metrics_token multi_accept mysql name_refresh on_down on_event peek peer peers peers_ca peers_certificate pending_max pid_file poll prio proxy_protocol proxy_v2_options quiet random roundrobin route select server server_tls server_tls_alpn server_tls_ca server_tls_certificate server_tls_key server_tls_name server_tls_verify session_max_age slowstart source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_client_renegotiation_interval ssl_compat ssl_handshake ssl_key ssl_key_passphrase ssl_option ssl_protocol ssl_require_peer ssl_sni_path ssl_strict_sni ssl_verify_client stateless stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking tracking_with transparent udp udp_replies udp_requests udp_timeout udp_unanswered user user_timeout web_stats weight workers"
    elif (($# == 3)) && [[ $2 == listener ]]; then
        _gpen_reply LISTENER
    fi
}

# The words behind listener, up to cur.
_gpenctl_listener() {
    if (($# == 1)); then
        _gpen_reply LISTENER
    elif (($# == 2)); then
        _gpen_reply "abuse accept_proxy backlog bandwidth bandwidth_total client client_acl client_max client_rate close conn_max connection_rate dsr_if dsr_ip dummy emergency events explain freebind greeting half_closed_timeout hash hold hold_max http http_head_timeout http_header_max idle_timeout inherit keepalive leastconn listen listen_mode log log_format mode multi_accept mysql on_down pending_max prio proxy_protocol proxy_v2_options quiet random rebalance recent roundrobin route server server_tls server_tls_alpn server_tls_ca server_tls_certificate server_tls_key server_tls_name server_tls_verify servers session_max_age sessions slowstart source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_client_renegotiation_interval ssl_compat ssl_handshake ssl_key ssl_key_passphrase ssl_option ssl_protocol ssl_require_peer ssl_sni_path ssl_strict_sni ssl_verify_client stateless stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking tracking_with transparent udp udp_replies udp_requests udp_timeout udp_unanswered user_timeout weight no"
    elif [[ $2 != no ]]; then
        _gpen_reply "$(_gpen_after_listener "$2" $(($# - 3)) "${words[${#words[@]} - 2]}")"
    elif (($# == 3)); then
        _gpen_reply "abuse accept_proxy backlog bandwidth bandwidth_total client client_acl client_max client_rate conn_max connection_rate dsr_if dsr_ip dummy emergency freebind greeting half_closed_timeout hash hold hold_max http http_head_timeout http_header_max idle_timeout keepalive leastconn listen listen_mode log log_format multi_accept mysql on_down pending_max prio proxy_protocol proxy_v2_options quiet random roundrobin route server_tls server_tls_alpn server_tls_ca server_tls_certificate server_tls_key server_tls_name server_tls_verify session_max_age slowstart source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_client_renegotiation_interval ssl_compat ssl_handshake ssl_key ssl_key_passphrase ssl_option ssl_protocol ssl_require_peer ssl_sni_path ssl_strict_sni ssl_verify_client stateless stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking tracking_with transparent udp udp_replies udp_requests udp_timeout udp_unanswered user_timeout weight"
    fi
}

complete -F _gpen gpen
complete -F _gpenctl gpenctl
