"""What makes no sense together: what is refused, what is told, and what is neither."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.script import ScriptErrors, parse_line
from gpen.control.validation import REFUSED, VAIN, VAIN_AT_SERVERS, notes
from gpen.model.server import FIELDS
from gpen.model.settings import SETTINGS
from tests.harness import Gpen, Server, naming, run_gpen, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

SERVER = "server 0 address 10.0.0.1 port 80"
FOR_TCP = "it is for TCP"
NO_LOGIN = "a MySQL server (mysql) blocks gpen's address (1129) after max_connect_errors connections without a login: "


def configured(*lines: str) -> Configuration:
    """What these lines make. Raises ScriptErrors where they can't work together."""
    configuration = Configuration(lambda: 0.0, lambda: 0.0)
    draft = Draft(configuration)
    draft.run_all(call for call in map(parse_line, lines) if call is not None)
    draft.check()
    configuration.adopt(draft)
    return configuration


def told(*lines: str) -> list[str]:
    configuration = configured(SERVER, *lines)
    return [words for _, words in notes(configuration, configuration.pool.all_servers())]


def test_a_listener_that_has_none_of_its_servers() -> None:
    web = "listener web listen 81"
    assert told(web, "listener web servers 5-7,9") == [
        "listener web: servers 5-7, 9: there is none of them (known: 0)"]
    assert told(web, "listener web servers 0,9") == told(web) == []


@pytest.mark.parametrize(("lines", "says"), [
    ("udp_replies 1", "udp_replies 1 has no effect: it is for UDP"),
    ("udp, udp_unanswered 5", "udp_unanswered 5 has no effect: silence is held against no server unless udp_replies"),
    ("udp, idle_timeout 5", FOR_TCP), ("udp, tcp_fastclose up", FOR_TCP), ("udp, keepalive 5 5 5", FOR_TCP),
    ("udp, no keepalive", FOR_TCP), ("udp, user_timeout 5", FOR_TCP), ("udp, half_closed_timeout 5", FOR_TCP),
    ("client_max 9, conn_max 8", "client_max 9 has no effect: conn_max allows fewer"),
    ("client_max 9, listen /front", "clients of a unix socket have no address"),
    ("client_rate 9, listen /front", "client_rate 9 has no effect: clients of a unix socket have no address"),
    ("udp, bandwidth 9k", "bandwidth 9k has no effect: it is for TCP"), ("udp, bandwidth_total 9k", FOR_TCP),
    ("bandwidth 2k, bandwidth_total 1k", "bandwidth 2k has no effect: bandwidth_total is less"),
    ("udp_requests 1", "udp_requests 1 has no effect: it is for UDP"),
    ("half_closed_timeout 60, idle_timeout 5", "half_closed_timeout 60 has no effect: idle_timeout is shorter"),
    ("hold_max 5", "unless hold says for how long"), ("http_header_max 8192", "HTTP mode (-H)"),
    ("ssl_key /k", "ssl_key /k has no effect: without a certificate"), ("ssl_option no_ticket", "there is no TLS"),
    ("ssl_certificate /c, ssl_ciphers X, ssl_protocol tls1.3", "TLS 1.3 has its own"),
    ("ssl_certificate /c, ssl_ciphers X, ssl_option no_tlsv1.2", "TLS 1.3 has its own"),
    ("ssl_certificate /c, ssl_ca_file /ca", "no client is asked for a certificate"),
    ("ssl_certificate /c, ssl_key_passphrase /p, no ssl_certificate", "ssl_key_passphrase /p has no effect: without"),
    ("ssl_certificate /c, ssl_ca_file /ca, ssl_require_peer, ssl_verify_client optional", "(-R) requires one"),
    ("listen 81, listen_mode 0660", "listen_mode 0660 has no effect: the listener is a port"),
    ("dummy, route sni a servers 0", "route sni a servers 0 has no effect: dummy answers by itself"),
    ("route sni a servers 7-8", "route sni a: servers 7, 8: there is none of them (known: 0)"),
    ("check_rise 5", "no server is checked"), ("tracking 5, roundrobin", "roundrobin (-r)"),
    ("hash, leastconn", "hash has no effect: of prio, weight, leastconn, random, stateless, hash, the first that is "),
    ("emergency 10.0.0.9:80, stubborn", "emergency 10.0.0.9:80 has no effect: stubborn"),
    ("abuse 10.0.0.9:80", "denies nobody"), ("client_acl 3", "client_acl 3 has no effect: the access list is empty"),
    ("control_acl 3", "permits everybody"),
    ("accept_proxy 3", "whoever comes must begin with a header"),
    ("proxy_protocol v1, proxy_v2_options ssl", "proxy_v2_options ssl has no effect: only a header of version 2"),
    ("proxy_v2_options unique-id", "see proxy_protocol"),
    ("transparent, listen /front", "transparent has no effect: clients of a unix socket have no address"),
    ("log_format json, log 10.0.0.9:514", "log_format json has no effect: a log elsewhere"),
    ("control /ctl, control_access view", "control_access view has no effect: the control socket is a file"),
    ("control /ctl, acl 3 deny ::1, control_acl 3", "control_acl 3 has no effect: the control socket is a file"),
    ("control 8888, control_mode 666", "control_mode 0666 has no effect: the control socket is a port"),
    ("metrics 9180, metrics_acl 3", "metrics_acl 3 has no effect: the access list is empty, and permits everybody"),
    ("metrics /m, acl 3 deny ::1, metrics_acl 3", "metrics_acl 3 has no effect: the door of metrics is a file"),
    ("acl 3 deny ::1, metrics_acl 3", "metrics_acl 3 has no effect: the door is closed"),
    ("metrics_token /t, metrics_control on", "metrics_control on has no effect: the door is closed"),
    ("metrics 9180, metrics_token /t", "metrics_token /t has no effect: nobody may act"),
    ("server 0 prio 3", "prio 3 has no effect on server 0: the mode prio is off"),
    ("server 0 weight 3, server 2 address 10.0.0.2 port 1 weight 4", "weight 3 has no effect on server 0 (and 1 more)"),
    ("server 0 weight 0, hash", "weight 0 has no effect on server 0: none of the modes that weigh"),
    ("server 0 max 9 hard 5", "hard 5 has no effect on server 0"), ("server 0 hard 5", "may go beyond max"),
    ("server 0 acl 5", "acl 5 has no effect on server 0: the access list is empty, and permits everybody"),
    ("server 1 address ::1 port 80, source 127.0.0.9", "source 127.0.0.9 has no effect on server 1: it is"),
    ("source ::1", "source ::1 has no effect on server 0"),
    ("emergency [::1]:80, source 127.0.0.9", "source 127.0.0.9 has no effect on server emergency"),
    ("ssl_protocol ssl3, ssl_certificate /c", "ssl_protocol ssl3: means TLS 1.2 and 1.3 now"),
])
def test_what_has_no_effect(lines: str, says: str) -> None:
    words = told(*lines.split(", "))
    assert len(words) == 1 and says in words[0], words


@pytest.mark.parametrize("lines", [
    "udp, udp_replies 1, udp_unanswered 5, udp_timeout 3", "hold 10, hold_max 5", "idle_timeout 5", "tracking 5",
    "bandwidth 1k, bandwidth_total 2k",
    "listen 81, bandwidth_total 2k, listener u listen 82, listener u udp, listener u bandwidth off",
    "udp, udp_requests 1, client_rate 9, connection_rate 9/2",
    "client_max 500", "listen /front, client_max 9, accept_proxy 1, acl 1 permit ::/0", "client_max 9, udp",
    "half_closed_timeout 0, idle_timeout 5", "half_closed_timeout 4, idle_timeout 5",
    "ssl_certificate /c, ssl_key /k, ssl_ca_file /ca, ssl_require_peer, ssl_ciphers X", "check connect, check_rise 5",
    "server 0 check connect, check_rise 5", "roundrobin, tracking 5, server 0 max 1 hard 5", "hash, roundrobin",
    "ssl_handshake 5, route sni a.example servers 0",
    "emergency 10.0.0.9:80", "acl 3 deny 10.0.0.1, client_acl 3, abuse 10.0.0.9:80", "log_format json, log /l",
    "geoip_db /g", "control 8888, control_access view", "control /ctl, control_mode 666", "prio, server 0 prio 3",
    "leastconn, server 0 weight 3", "server 0 max 5 hard 9", "server 0 max 5 hard 5", "source 10.0.0.5",
    "source ::ffff:10.0.0.5", "server 1 address name port 80, server 2 address /path, source 10.0.0.5",
    "server 1 address 0.0.0.0 port 80, server 0 address ::1, source ::2", "web_stats /w", "ascii", "debug 2",
    "ssl_certificate /c, ssl_ca_file /ca, ssl_verify_client optional", "listen /front, listen_mode 0660 a:b",
    "route sni a servers 0, route default reject", "http, route host a servers 0",
    "mysql, ssl_certificate /c, route sni a servers 0",
    "http, ssl_certificate /c, ssl_alpn x, route sni a servers 0, route alpn x reject",
    "control_acl 0, control /ctl", "metrics 9180, acl 3 deny ::1, metrics_acl 3, metrics_token /t, metrics_control on",
])
def test_what_has_one(lines: str) -> None:
    assert told(*lines.split(", ")) == []


@pytest.mark.parametrize(("lines", "says"), [
    ("udp, hold 5, http", f"hold: {FOR_TCP}"), ("ssl_ca_file /ca", "give ssl_certificate"),
    ("ssl_certificate /c, ssl_require_peer", "by whose word"), ("http, greeting 1", "greeting: servers of HTTP"),
    ("http, ssl_certificate /c, ssl_alpn h2", "leave h2 out"), ("acl 3 deny country SE", "give geoip_db FILE first"),
    ("udp, listen /path", "udp: needs HOST:PORT"), ("ssl_strict_sni", "ssl_strict_sni: TLS needs a certificate"),
    ("ssl_certificate /c, ssl_verify_client optional", "ssl_verify_client: by whose word"),
    ("mysql, route sni a servers 0", "route: its servers speak first (mysql, greeting)"),
    ("greeting 1, route alpn h2 reject", "route: its servers speak first"),
    ("udp, route sni a servers 0", f"route: {FOR_TCP}"), ("route host a servers 0", "give http (-H), or take sni"),
    ("http, route sni a servers 0", "route: clients of HTTP mode (-H) speak TLS only where it is ended"),
    ("ssl_certificate /c, route alpn h2 servers 0", "route: alpn is what was agreed on where TLS is ended: give"),
    ("idlers 2, mysql", f"idlers: {NO_LOGIN}"), ("mysql, idlers 2", f"idlers: {NO_LOGIN}"),
    ("mysql, check greeting", f"check: {NO_LOGIN}"), ('check send "" expect 5.5.5, mysql', f"check: {NO_LOGIN}"),
    ("server 3 address 10.0.0.3 port 80 check greeting, mysql", f"server 3: check greeting: {NO_LOGIN}"),
    ("mysql, server 3 address 10.0.0.3 port 80, server 3 check send a expect b", f"server 3: check send: {NO_LOGIN}"),
    (f"mysql, {SERVER} check greeting, server 3 address 10.0.0.3 port 80 check greeting", "server 0 (and 1 more): "),
])
def test_what_is_refused(lines: str, says: str) -> None:
    with pytest.raises(ScriptErrors) as problem:
        configured(*lines.split(", "))
    assert any(says in str(error) for error in problem.value.errors)


@pytest.mark.parametrize("lines", [
    "mysql, check connect", "mysql, check exec /bin/true", "mysql, idlers 2, no idlers", "mysql, idlers 2, no mysql",
    "check greeting, mysql, check off", f"mysql, {SERVER} check greeting, server 0 check default",
    f"mysql, {SERVER} check greeting, no server 0", f"{SERVER} check greeting, idlers 2",
])
def test_what_is_not_so_in_the_end_is_not_refused(lines: str) -> None:
    configured(*lines.split(", "))


def test_the_tables_name_what_there_is() -> None:
    assert {name for row in (*REFUSED, *VAIN) for name in row.names} <= SETTINGS.keys()
    assert {row.name for row in VAIN_AT_SERVERS} <= SETTINGS.keys() | FIELDS.keys()


def test_the_defaults_are_all_in_order() -> None:
    assert told() == []


# --- the program ------------------------------------------------------------------------------------------------------


def test_check_and_start_tell_it(gpen: Start, servers: Serve) -> None:
    words = "hold_max 7 has no effect: no client waits, unless hold says for how long"
    done = run_gpen("--check", "-O", "hold_max 7", "127.0.0.1:0", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, "configuration is valid\n") and words in done.stderr
    balancer = gpen("-O", "hold_max 7", servers=[servers(naming("a"))])
    balancer.ctl("timeout 5", "hold_max 7", "reload")
    assert balancer.stderr.count(words) == 1


def test_a_pair_can_be_set_in_any_order(gpen: Start, servers: Serve) -> None:
    """What a later line gives an effect to is told, and taken; what came first is not told at all."""
    balancer = gpen(servers=[servers(naming("a"))])
    assert balancer.ctl("hold_max 7", "hold 5", "prio", "server 0 prio 3", "server 0 weight 4", "source ::1",
                        "source 127.0.0.9") == "7\n5\n"
    told = [line for line in balancer.stderr.splitlines() if "no effect" in line]
    assert [line.split(": ", 1)[1].split(" has")[0] for line in told] == ["hold_max 7", "weight 4", "source ::1"]
    assert balancer.ask() == b"a"


COUNTED = ("idlers 2", "check greeting", 'check send "" expect 5.5.5', "server 0 check greeting")


@pytest.mark.parametrize("counted", COUNTED)
def test_what_a_mysql_server_would_count_is_refused_at_the_start(counted: str, tmp_path: Path) -> None:
    """On the command line, in the file, and in both, in any order."""
    file, place = tmp_path / "gpen.cfg", ("127.0.0.1:0", "127.0.0.1:1")
    for first, second in ((counted, "mysql"), ("mysql", counted)):
        file.write_text(f"{first}\n")
        both = tmp_path / "both.cfg"
        both.write_text(f"listen {place[0]}\nserver 0 address 127.0.0.1 port 1\n{first}\n{second}\n")
        for words in (["--check", "-O", first, "-O", second, *place],
                      ["-f", "-F", str(file), "-O", second, *place],
                      ["--check", "-F", str(both)], ["-f", "-F", str(both)]):
            done = run_gpen(*words)
            assert done.returncode == 2 and NO_LOGIN in done.stderr and done.stderr.count("\n") == 1, done


@pytest.mark.parametrize("counted", COUNTED)
def test_what_a_mysql_server_would_count_is_refused_at_runtime(gpen: Start, servers: Serve, counted: str,
                                                               tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    for first, second in ((counted, "mysql"), ("mysql", counted)):
        file.write_text("timeout 5\n")
        balancer = gpen("-F", str(file), servers=[servers(naming("a2345678"))])
        assert "error" not in balancer.ctl(first)
        before = written(balancer, tmp_path)
        assert NO_LOGIN in balancer.ctl(second) and balancer.ctl(second).startswith("error: ")
        file.write_text(f"timeout 6\n{second}\n")
        assert NO_LOGIN in balancer.ctl("reload") and NO_LOGIN in balancer.ctl(f"include {file}")
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: balancer.stderr.count(NO_LOGIN) == 2)  # noqa: B023 (it is waited for here)
        assert balancer.ctl("timeout") == "5\n"
        assert written(balancer, tmp_path) == before
        assert balancer.ask() == b"a2345678"


def written(balancer: Gpen, directory: Path) -> list[str]:
    """The commands that are in force."""
    balancer.ctl(f"write {directory}/written")
    return [line for line in (directory / "written").read_text().splitlines() if not line.startswith("#")]
