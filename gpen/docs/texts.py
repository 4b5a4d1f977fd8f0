"""What the man pages say that no table knows."""

from __future__ import annotations

from gpen.model import settings
from gpen.model.scheduler import RULES
from gpen.model.server import MEMBER_FIELDS

GPEN_DESCRIPTION = """
gpen accepts connections at LISTEN and passes each on to one of the SERVERs, bytes both ways, until both ends are
done; or datagrams (-U). A client goes to the server that it used last; if that can't be reached, to another one. It
takes pen's options, speaks pen's control language, and reads the files that pen writes.

LISTEN is [HOST:]PORT or [IPV6]:PORT, several of these with commas between (see SEVERAL LISTENERS), or /PATH of a unix
socket. A SERVER is HOST[:PORT[:MAX[:HARD[:WEIGHT[:PRIO]]]]], [IPV6]:PORT... or /PATH; fields may be empty. PORT is a
number or a service's name, and that of LISTEN unless given. MAX limits the sessions of a server, HARD those of clients
that return to it.

Options are read first, then the addresses, then -O commands, and the file of -F last, as in pen; but where the
process itself is concerned (pid file, control socket, user, chroot, foreground) the command line wins over the file.

A name of a host that does not exist is an error at start, and of the command that brings it; it fails no other
command. When the name service does not answer at start, the server waits until it does, and the others serve. While
gpen runs, the names of servers, and of a log elsewhere, are looked up again every name_refresh seconds, and at once
when something says that a server is not well. A name that has no answer then keeps its last address. Where it means
another address, new sessions go there, the old ones go on, and what connects and checks have found at the old one
counts no more; state, blacklist and health that a command gave stay. The names of LISTEN and of the control socket
are looked up when they are set.

Whatever the parent has left, gpen begins from a known state: no signal is ignored or blocked, descriptors but 0 to 2
are closed (unless the command line names one as /dev/fd/N), the soft limits of file size, processor time and
processes are the hard ones, and the umask forbids gpen nothing. What has no other parent is waited for, so gpen may
be process 1 of a container.

gpen takes as many descriptors as conn_max needs. Where that is more than the limit (LimitNOFILE, ulimit -n) allows, or
where there are fewer ports than connections to all servers (net.ipv4.ip_local_port_range), the start says so, and
--check, with what to do.

In the background the command returns when gpen serves, with status 0, or when it can't, with the reason on stderr.
"""

_ORDER = ", ".join(f"{rule.name} ({rule.flag})" if rule.flag else rule.name for rule in RULES)
CHOICE = f"""
A client that client_acl denies gets the abuse server (-B), or is closed. Else, unless -r is given or the rule is
stateless, the client gets the server that it used last, as long as that is remembered (-c, -T). A new client gets a
server by the first of these that is on: {_ORDER}; without any, the next one in turn. What is not chosen in turn moves
no turn. All this is of one listener: another has its own rule, turn and memory of clients.

A server is passed over while it is blacklisted, found down by a check or by 'server N health', full, drained (by
'server N state' or 'server N health'), or while its own access list denies the client. When a connection is refused,
reset, unreachable or times out, or when the server does not speak within greeting seconds, the server is blacklisted
(-b) and the rule chooses again among the others. After the blacklist time one connection is the trial that decides
whether the server is back; the others do not wait for it. While no other server can take a client, that trial comes a
second after the failure already, and again each second; not where a command has blacklisted the server. When none is
left, the emergency server (-e) is tried; then the client waits for hold seconds, if that is set, and is closed. A
failure of this machine (no descriptors, no ports) is held against no server.

With slowstart S, a server that has come back gets a share of the new clients that grows evenly for S seconds: it has
come back when it gets clients again after a check or a verdict, after the blacklist, after drain or maint, at another
address, or as a new server; not at the start of gpen. Of leastconn, random, weight and round robin it gets the part
that its grown weight is of all, of prio that part of all clients that has passed of S, where it is the first; never
more than the rule would give it. Where no other can take a client it does, and a client that is remembered at it goes
there. With hash and stateless each client keeps its own server. servers json tells how many percent of its share a
server has (slow_start), explain as well; another gpen that takes over goes on with it.

With -s the first choice is the only one. A remembered server that can't take the client closes it. Else the rule
chooses among the servers that are not down, blacklisted or drained (hash, stateless: among all), and one that is full
or denies the client closes it and has had its turn; so does one whose connect fails. Neither emergency server nor
trial.

A server whose address is 0.0.0.0 (in any notation) or [::], or whose port is 0, is an empty slot, as in pen: nobody is
sent there, the sessions that it had go on, and 'server N address ...' puts a server into it. An address where a
listener that uses the server listens itself is refused; a server whose name turns out to mean one is down for that
reason.

The command explain says which server a client would get, and why not the others.
"""

_OF_THE_PROCESS = ", ".join(sorted(name for name, setting in settings.SETTINGS.items()
                                   if setting.scope == settings.PROCESS))
_DIFFERENT = " or ".join((", ".join(MEMBER_FIELDS[:-1]), MEMBER_FIELDS[-1]))
LISTENERS = f"""
One gpen may listen at several addresses: where a cluster is read and where it is written, at 80 and 443, at port 53 of
UDP and of TCP. Each is a listener, and all of them have the same servers. One listener may be without a name: it is
the one of pen's commands, and - in lists. The others have names, of letters, digits, _ . and -, which begin with a
letter or a digit and have at most 32 characters. There need not be one without a name.

'listener NAME' in front of a command says it to that listener. A line means the same on the control socket, in -O and
in a file. A setting without it is that of the listener without a name, and of all others that have no value of their
own:

    listener NAME listen [HOST:]PORT    makes it, or moves it
    listener NAME SETTING VALUE         a value of its own
    listener NAME no SETTING            the default as its own value
    listener NAME inherit SETTING       the shared value again
    listener NAME SETTING               tells the value that it has
    listener NAME servers 0-2,5         which servers it uses, or all
    listener NAME server N max M        {_DIFFERENT} there
    listener NAME server N max default  there as everywhere
    listener NAME inherit server N      all of the server as everywhere
    listener NAME client A server N     its memory of clients
    no listener NAME                    closes it; its sessions go on

In a file, and in several -O, lines may come in any order; on the control socket a listener begins with its listen.
These are of the whole gpen, and refused behind 'listener NAME': access lists, and {_OF_THE_PROCESS}.

LISTEN makes listeners too: 80,443 or 10.0.0.1:80,[::1]:443 or 53/udp,53/tcp. The first is the one without a name, each
further one is named by its port. A SERVER without a port, also that of -e or -B, is reached by each of them at its own
port. What is different at one is said by -O.

What is known of a server is shared: its address, its state, the verdicts of checks and of 'server N health', and the
blacklist of 'server N blacklist'. max and hard of 'server N' count the sessions of all listeners, and so do leastconn
and weight when they compare servers; max of 'listener NAME server N' counts those of that listener, and both hold.
What a failed connect says, and silence over UDP, is of the server as it was reached, over TCP or UDP and at that port:
a UDP 53 that is refused takes no TCP 53 away. Checks go to the server's own port, or to its check_port, with the source
that is said without a name, and to its own port with that proxy_protocol. With on_down, a verdict closes the sessions
of those listeners that say so.

Each listener has its own rule, turn, memory of clients (of clients_max at most), client_max, conn_max and clients that
wait (hold). 'listener NAME tracking_with OTHER' gives it the memory and the turn of OTHER, or of - without a name:
whoever was at a server over port 80 gets the same one over 443, and client_max counts both. conn_max_total limits all
listeners together. Idlers are for the listener without a name.

Over UDP a listener takes no notice of settings for TCP that it shares, such as hold; they are refused where they are
said to it, or where the listener without a name is one of UDP: say them to those of TCP then.

'listeners' lists them. 'servers', 'mode', 'recent' and 'explain' tell what holds for the listener without a name, but
count the sessions that servers have of all; 'sessions' and 'events' tell of all. Behind 'listener NAME' they, and
'close server N', are about that one: 'listener NAME servers' has the servers that it uses, with its sessions, and with
max, weight, prio and port as they are there; bytes are of all. A listener that can't be opened fails the whole change
that brings it.

A port to write to a cluster, one to read from it, and one for whoever looks after it, at one server; a server that is
found down is down for all three, and only writers lose their sessions there:

    listen 3307
    roundrobin
    mysql
    greeting 1
    hold 10
    server 0 address 10.0.0.1 port 3306 max 200
    server 1 address 10.0.0.2 port 3306 max 200
    acl 9 permit 127.0.0.0/8
    listener writer listen 3306
    listener writer prio
    listener writer server 0 prio 1
    listener writer server 1 prio 2
    listener writer on_down close
    listener admin listen 127.0.0.1:3308
    listener admin client_acl 9
    listener admin servers 0
    listener admin server 0 max 5
"""

CONFIGURATION = """
The file of -F holds commands, a line each (gpenctl(1) describes them); 'include FILE' reads more. All that is wrong is
told, with file and line; --check does only that. What can't work together is refused: settings for TCP, TLS or HTTP
with UDP (of one listener), ssl_ca_file, ssl_ca_path, ssl_require_peer, ssl_verify_client, ssl_sni_path and
ssl_strict_sni without ssl_certificate, routes by what the listener's clients don't say,
entries for countries without geoip_db, and with mysql what its servers would block gpen for: idlers, check greeting
and check send. What has no effect as things are (hold_max without hold, prio of a server while the mode is off, a
client_acl that is empty) is taken, for lines may come in any order, and told once in the diagnostics.

'write' saves what is in force, short: what differs from the defaults. 'state' prints the rest, as commands: verdicts
with reason and age, what is left of blacklists, drain and maint, and which client was at which server. A gpen of the
same configuration that includes that goes on where this one is: gpenctl OLD state > FILE; gpenctl NEW include FILE.

At signal HUP, or by the command reload, which also answers, the file is compared with what it said when it was read
last, and what is different is carried out, whole or not at all: a new or changed line counts; one that went is undone,
so that a setting has the command line's value or its default again, a setting of one listener the shared value, and a
server or a listener gets no new sessions and is gone, while its old sessions go on; an access list whose lines have
changed is built anew. What the file says as before is left alone, whatever has been done to it at runtime, and so is
what it never mentioned: with an unchanged file a HUP, such as logrotate's, disturbs nothing. Each change is told.
Settings that count at the start only are named, and wait.

A file is a regular one of at most 1 MiB; with all that it includes, at most 8 deep, it has at most 100,000 lines. What
a client of the control port includes may do what that client may.
"""

HEALTH = """
Beside the blacklist, which needs a client to find out, a server's health is what a check (the settings check and
check_...) or somebody outside ('server N health up|drain|down because ...') says of it: down, it gets no new clients;
those that are just being connected to it go to another; on_down says, for each listener, what becomes of its sessions.
drain is the word for one that serves well what it has, but shall get no more (a database that is busy as a donor,
say): as down, but its sessions go on, whatever on_down says. Of all that say something the worst counts; events
calls it drained, where drain is what an operator did with 'server N state'. health_ttl drops the word of somebody
outside who has fallen silent.

A server's agent is a third voice ('check connect agent 9777'): a program at a port of its machine that answers in a
line, as HAProxy's agent-check has it: up; down, stopped, fail or maint, which are down; drain, or 0%; ready, which
takes maint and drain back; or 75%, the share of its weight that counts while the rule weighs. What an answer leaves out
stays as it was said before, and so does all when the agent can't be asked, or says something else. Its up ends no
blacklist.

on_event has a program told of each change of a server's state, and when a listener can serve its clients no more, or
can again. Its environment has GPEN_EVENT (as events calls it; of a listener, unready or ready), GPEN_ABOUT (server or
listener), GPEN_SERVER, GPEN_ADDRESS, GPEN_HOST, GPEN_PORT, GPEN_STATE, GPEN_LISTENER, GPEN_LISTENERS (those that use
the server), GPEN_OLD and GPEN_NEW (up, drained, down; drain or maint by the operator; empty, deleted; ready, unready),
GPEN_REASON, GPEN_TIME (seconds since 1970) and GPEN_LOST (how many changes before it nobody was told of). One runs at a
time, for 30 seconds at most, and 100 changes wait.

A server that this machine keeps gpen from has failed like any other: a route of kind blackhole, prohibit, unreachable
or throw, a firewall that refuses what goes out, a family of addresses that is off. Only where a route or the firewall
keeps gpen from all the servers that it would use (of two or more) is none held to be down for it. A lack of this
machine (descriptors, memory, ports, a source that is not its own) never counts against a server. Both are told in the
diagnostics when they begin, and when there was nothing of the kind for 5 seconds.

Where servers speak first, as those of MySQL and mail do, greeting sees to it that one which is connected but says
nothing is left before the client notices; mysql adds that its errors are understood, and that a client which is
turned away is told why. How servers know who the client is: THE PROXY PROTOCOL, and TRANSPARENT.

A MySQL server refuses an address (error 1129) from which max_connect_errors clients in a row, 100 unless set, have
left without a login, be it a port scan or a monitor, until FLUSH HOSTS; behind any balancer that is the balancer's,
and all clients are turned away. No balancer can prevent it: set max_connect_errors = 4294967295 on each server, or
let MariaDB see the clients themselves (proxy_protocol v2 here, proxy_protocol_networks there). Where servers have
skip_name_resolve on, they count nobody. gpen's own check connect is never counted.

All of these are settings: gpenctl(1) describes them; -O sets them at start. gpen-galera(1) watches a Galera cluster,
gpen-discover(1) keeps the servers as a file, DNS or a registry lists them.
"""

GONE = """
A session's place on its server, which max and hard limit and leastconn counts, is free as soon as the server's side
has ended: clients of a server that was restarted do not keep the new one full, whatever they do. The session itself
goes on, for what the client has yet to get, and for what it may still send; drain, close, on_down and the state maint
mean it until it has ended. A session of which one side has ended is over after half_closed_timeout seconds in
which nothing moved; idle_timeout counts for all.

A machine that is gone without a word is found by the kernel. One that was silent for a minute is asked, and is gone
when it leaves six questions in a row unanswered, ten seconds apart (keepalive 60 10 6): its session ends as
client-reset or server-reset. While bytes are on their way to it, it is not asked, and the kernel repeats them for some
15 minutes; user_timeout makes that shorter. That also cuts off who is there, but has no room for what waits for it
for so long: leave it off where clients may pause, as in a long download, or a cursor of a database.

A server that is to be left can end its sessions between two exchanges (drain N SECONDS quiet, close server N quiet), so
that pools which try a connection before they use it notice nothing. A session is quiet when the last bytes came from
its server, its client has got them, and nothing came for quiet seconds; in HTTP mode every request has its answer too.
With mysql, where the client does not encrypt, gpen knows it: when a session is to end it follows commands and their
answers, and whether a transaction is open. Of an idle session it asks that the server, by a COM_PING of which the
client sees nothing, and it tells the server that the session ends (COM_QUIT). Behind COMMIT and ROLLBACK a tenth of
quiet will do; behind a ping, and without autocommit behind all else, it takes four times as long. What is not
understood (compression, say) goes by time; a login is never cut; a replica stays. Temporary tables, locks and variables
of a session nobody can see from outside. It ends as drained, which is no error.

Pools that keep their connections stay where these are, also when a server has come back. rebalance ends in the same
way, evenly in time, what servers have beyond their share; session_max_age ends each session of TCP that has lasted for
so long, or up to a tenth less. Both forget where the client was, so that its next connection gets a server by the rule;
the log calls them rebalanced and max-age, which are no errors. A session that is never quiet goes on. Without memory
(-r) and by leastconn each that was ended is one that is better placed; in turn, some come back to where they were, and
are ended again. A share is by weight, as far as the rule heeds it and a slow start has grown, among the servers that
may get clients; max holds. Sessions on a server that is down or drained are left alone, for on_down and drain see to
them; those at the emergency server come home.

client_max is how many sessions one client address may have at a listener, so that no single one has all of conn_max.
Those that are held, or in their TLS handshake, count; those that have yet to send a PROXY protocol header have no
address so far. More are closed at once: before a TLS handshake, with error 1203 where servers speak mysql, with 429 in
HTTP, and in the log as client-max. The diagnostics and events tell the first, and then one a minute. explain ADDRESS
and recent show how many an address has. Clients behind one NAT, or a proxy without the PROXY protocol, are one
address. The sender of a datagram may be forged: over UDP, somebody else can use up an address's share.

client_rate N/S is how many sessions an address may begin: N in any S seconds, exactly. More are closed like those of
client_max, with error 1226 or 429 and a Retry-After, and in the log as client-rate. Those that are refused, for
whatever reason, do not count, so that a client which keeps trying gets in as often as it may. Each listener counts for
itself, and remembers the 65,536 addresses that it let in last.

connection_rate N/S is how many clients a listener lets in: N in any S seconds, exactly, whoever they are. The others
wait in the kernel's backlog (of the setting backlog: beyond that, clients ask again after a second and more), and of
those one comes each S/N seconds. Over UDP the datagrams of flows that are too many are dropped. When a rate is changed
it begins anew; so does that of a gpen that takes the place of another. The diagnostics tell when clients begin to wait,
and when it is over; listeners json has how many wait now (waiting), how many had to (delayed), and the flows that did
not begin (dropped); explain tells for how long a client would.

bandwidth is how many bytes of each session move in a second, bandwidth_total how many of all of a listener, both in
each direction by itself: k, m and g are 1024 bytes, of these, and of these. Nothing is lost: what is too much stays
with who sends it. What was not used for a fifth of a second may be used later, and of TLS whole records pass, which is
made up for; so it holds to a few percent over a second and more. Sessions that have something to send take turns for
bandwidth_total, also where workers serve them. Sessions that are there heed a change, at once. Bytes that are limited
are read and sent by gpen, not passed by the kernel alone: that costs CPU time where the limit is high.
"""

PROXY = """
proxy_protocol has gpen tell the servers who a client is, in a header in front of its first byte; accept_proxy believes
other balancers who tell gpen so. A header that is malformed ends the session: in version 2 also an extension (TLV) that
is longer than the header or the extension that it is in, a unique id of more than 128 bytes, a checksum (CRC32c) that
is wrong, a family or protocol that is none, and more than 16 KiB.

In version 2, proxy_v2_options says what servers are told besides: of the client's TLS with gpen, which version it is
(ssl), its cipher (ssl-cipher), the common name of the client's certificate (cert-cn), and of gpen's own certificate how
it is signed (cert-sig: RSA-SHA256) and its key (cert-key: EC256); the name that the client asked for (authority), where
a route reads it also of TLS that is not ended here, and the protocol that was agreed on (alpn); an id (unique-id), by
which lines of the log, at whose end it stands then, rows of sessions json and the servers' logs can be joined; and a
checksum (crc32c). Each of the words of TLS brings what ssl tells. A client that speaks no TLS with gpen has nothing of
that. haproxy shows what it gets as fc_pp_authority and fc_pp_unique_id, nginx as $proxy_protocol_tlv_NAME. MariaDB
takes short headers only, some 200 bytes: leave certificates and long names out there.

    gpen -E www.pem -O 'proxy_protocol v2' -O 'proxy_v2_options ssl,authority,unique-id' 443 www1:8443 www2:8443

What a proxy has told in a header of version 2 (accept_proxy) is shown as proxy in sessions json and in the log in JSON,
and goes on to servers with proxy_protocol v2, whatever proxy_v2_options says; but what gpen itself knows, where it ends
the client's TLS, takes its place. The id that a proxy has given a connection stays, so that it is the same all along
the way. The proxy's checksum, padding and name of a network namespace do not go on. In HTTP mode a client that speaks
TLS with the proxy has X-Forwarded-Proto https.
"""

TRANSPARENT = """
With transparent, gpen connects to servers from the client's address, and from its port if that is free: servers see
who the client is, and grant, log and limit by that, and need not understand anything. It is for TCP and UDP, IPv4 and
IPv6, for all listeners or one (listener NAME transparent). Where servers understand the PROXY protocol, that is
simpler: it needs no routes, no rights, and tells more.

What a server answers goes to the client's address. So gpen's machine must be its way there: the servers' default
gateway, or that of a route to the clients' networks; and must keep the answer for gpen. As root, there:

    nft add table inet gpen
    nft add chain inet gpen transparent '{ type filter hook prerouting priority mangle; }'
    nft add rule inet gpen transparent meta l4proto '{ tcp, udp }' socket transparent 1 meta mark set 1
    ip rule add fwmark 1 lookup 100
    ip route add local default dev lo table 100
    ip -6 rule add fwmark 1 lookup 100
    ip -6 route add local default dev lo table 100

and on each server, where gpen's machine has 10.2.0.1 and fd00:2::1:

    ip route replace default via 10.2.0.1
    ip -6 route replace default via fd00:2::1

That takes CAP_NET_RAW or CAP_NET_ADMIN. Of root's power gpen keeps the first of these then, whoever it becomes (-u);
with -u, programs of checks have neither; a unit of systemd that does not start as root has
AmbientCapabilities=CAP_NET_RAW. Both are taken at the start only: a gpen that was started without transparent refuses
it later.

From gpen's own address, or that of source, come checks, clients whose address is of another family (IPv4, IPv6) than
the server's, those of unix sockets, loopback clients of servers elsewhere, and a server that is a client of itself; it
is told when that begins. A server that does not answer a client is asked again from gpen's own address, and only if it
does not answer that either has it failed. So a client whose answers go another way, as of one in the servers' own
network, is turned away, and takes no server from others; the diagnostics tell it. With mysql, what a server has against
the client's host (1129, 1130) is no failure of the server either, and the client's to hear. idlers are refused. explain
ADDRESS says whom a server sees, and listeners which listeners are transparent.
"""

UDP = """
With -U, or where a listener has the setting udp, gpen balances datagrams. What one client address and port sends is a
flow: it has one server, chosen as for a TCP session, and a socket of its own to it. Replies come from the address that
the client has asked, also where gpen has several. sessions, servers, recent, drain, close, limits and access lists
mean flows.

A flow ends when it had no datagram for udp_timeout seconds, or when each of its datagrams had udp_replies replies,
which frees its place at once: 1 suits DNS, with an udp_timeout of a few seconds. At conn_max the flow that was idle
for longest gives way, rather one that waits for no answer. A server whose machine refuses a datagram (ICMP) is
blacklisted, and the flow's unanswered datagrams go to the next. What a flow has sent that had no reply at all goes to
another server when its own moves, goes or is taken down.

Silence says nothing, unless udp_replies says that replies are due. Anybody can send what no server answers, so a flow
without a reply counts against a server only if nobody has had a reply from there since it asked. After udp_unanswered
such flows in a row the server's next address is used; after the last one, the server is blacklisted, until its trial,
or any reply from there. The last server that answers is never blacklisted for silence, however many ask what it
ignores: where no other that is up, ready, not full and not silent itself could take its clients, it goes on serving,
those that silence has blacklisted come back, and all begin anew, so that with all of them silent each has its turn
('silent' in events). Nor is the emergency server used for it. Whether a server that is alone answers is for
'check exec' to find out.

With udp_requests N a flow takes N datagrams of its client, and the next one begins a new flow, whose server is chosen
anew, by the rule: a client's last server does not count then. So 1 spreads what one client sends from one port, such as
lines of syslog or statsd, over all servers; they may arrive in another order there. hash and stateless choose by the
address: with them it stays one server. A flow that had its N datagrams waits for the replies that udp_replies says are
due; where none are, it ends at once (requested), and for a second replies still pass, of the last 64 such flows.

No flow begins for a datagram that comes from the address and port of one of gpen's servers, or of gpen itself: replies
would go round for ever. It is dropped, counted ('looped' in servers json, above gpenctl's table of servers, and in the
status page), and told once in diagnostics and events; a flow whose client becomes such a place ends. It is forged, or a
server leads back to gpen. Firewalls do better still to let nobody outside send with inside addresses.

What is for streams is refused with -U: TLS, http, mysql, greeting, hold, the PROXY protocol, idlers, dummy, unix
sockets. Checks are made over TCP, or by a program (check exec). Name servers are asked over TCP as well: LISTEN
53/udp,53/tcp takes both.
"""

DSR = """
With the setting dsr_if gpen takes the frames that clients send from a network interface, and sends them on to servers
as they are, but for the MAC addresses; servers answer the clients themselves, past gpen. gpen -r -O 'dsr_if eth1'
192.0.2.100:80 192.0.2.11 192.0.2.12 does so for the address 192.0.2.100, for which it answers ARP; with dsr_ip the
address may stand by itself. Servers are in the same network, and have that address at their loopback, where it must not
be told: sysctl net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2, then ip address add 192.0.2.100/32 dev
lo. gpen's machine must not have it, nor route what comes by that interface. It is for IPv4, TCP or UDP (-U), and needs
CAP_NET_RAW, which gpen keeps, also with -u, where dsr_if is there at the start.

The port of the listener is the servers' too; port 0 is all ports. A server's own port is for its checks. A TCP
connection, or what one client address and port sends by UDP, is a flow, with one server, which is chosen as for any
session; sessions, servers, drain, close, limits and access lists mean flows. What servers send does not come by, and
is not counted. A connection ends 2 seconds behind its client's FIN, with a RST, or when it was silent for idle_timeout
seconds (900 where that is 0), and goes on at its server if it speaks again; a flow of UDP after udp_timeout seconds.
One that is cut (close, state maint, on_down close, a machine that is gone) is answered with a RST when its client
speaks again, and its server gets one too. Beside checks, servers are asked by ARP every 3 seconds, and one that leaves
three questions unanswered is blacklisted until it answers.

tarpit_acl names an access list: gpen answers ARP for all addresses that it permits, but those of the service, the
servers and its own, and accepts TCP connections there, of which nothing more comes. The list must deny all machines of
the network that are real.

What has to do with the bytes of connections is refused with dsr_if: TLS, http, mysql, greeting, hold, the PROXY
protocol, idlers, dummy. docs/DSR.md has an example with all that it takes, and what two balancers need.
"""

TLS = """
With -E clients speak TLS 1.2 or 1.3, and servers plain bytes; -O 'listener NAME ssl_certificate FILE' has that at one
of several listeners only. The file holds the certificate, then its chain, and the key unless -K names another file:
what ACME clients call fullchain.pem and privkey.pem. The handshake comes first, within ssl_handshake seconds, then a
server is chosen; a client that client_acl denies is closed before it, unless there is an abuse server. Clients in
their handshake count as sessions. A client's close_notify is passed on as a half-close, and a server's half-close as a
close_notify; a client that ends without one is logged as client-truncated, and what it sent is delivered.

By default TLS 1.2 has the ciphers with forward secrecy and authenticated encryption only (ECDHE with AES-GCM or
ChaCha20), in the server's order, but for a client that wants ChaCha20 most; nobody may renegotiate or compress.
ssl_ciphers names others. Where ssl_alpn is set, a client that offers protocols (ALPN) and none of these is refused by
the alert no_application_protocol (RFC 7301); one that offers none is served. Keys of session tickets are new at each
HUP.

ssl_sni_path names a directory with certificates for other names; with ssl_strict_sni, a client that asks for a name
which no certificate has, or for none, is refused by the alert unrecognized_name. With -R a client needs a certificate
of the authorities of -G or -A; with ssl_verify_client optional one is asked for, and who has none is let in, while one
that is not valid is refused. DOMAIN.ca beside a certificate there has the authorities for those who ask for that name,
in the place of these; in HTTP mode a request for a Host of other authorities is answered 421. Whose a certificate is
(the subject, as RFC 4514 writes it) stands in the JSON log and in 'sessions json', and at the end of a line of the text
log where ssl_verify_client is set. A key that is encrypted needs
ssl_key_passphrase, a file that not everybody may read; nobody is ever asked on a terminal. ssl_ settings can be changed
at runtime, and HUP reads the files again; sessions that run keep what they have, and a file that is broken leaves the
old one in force. Keys are read before gpen becomes another user (-u), who must be able to read them at HUP: give that
user the right, or restart after a renewal. 'include FILE' sets several settings in one step, such as a certificate and
its key.

With server_tls on, gpen speaks TLS to the servers, whatever the clients speak: with -E on both sides. A server's
certificate must be valid by server_tls_ca (unset: the system's authorities) and for the host of its address, or
server_tls_name; server N tls and tls_name say it for one server. A server that fails in the handshake has failed like
one that can't be reached: the client gets another, and 'servers' tells why. server_tls_certificate and server_tls_key
are for servers that want to know who comes. Checks speak TLS as well (check_tls).

The bytes that -dd shows are what the servers see: plain; so are the reasons of failed handshakes that -d shows. Not
here: OCSP stapling, which Python's ssl module can't do and authorities give up: leave
ssl_ocsp_response out, and take a certificate without must-staple.
"""

HTTP = """
With -H each request, not only the first of a connection, gets X-Forwarded-For, with the client's address behind what
is there (so that only the last address in it is to be trusted), and X-Forwarded-Proto, http or https, in the place of
what is there. A request that two programs could understand in two ways (both Content-Length and Transfer-Encoding,
two lengths, bad line ends, and the like) is answered 400, and so is CONNECT; one with a header larger than
http_header_max 431, and the connection is closed. When no server can be had the answer is 503, 403 for a client that
client_acl denies, and 429 for one that has client_max sessions already, or begins them faster than client_rate (over
TLS these are closed instead).

A server is chosen, and dialled, when the header of a connection's first request is here as a whole and is none of
these: what clients only begin to say costs no server a connection, nor a place. They count for conn_max meanwhile, and
their state is "request". The header may take http_head_timeout seconds from the connection or the TLS handshake, that
of a later request from its first byte (and up to a second more); bytes do not renew them, and the answer is 408.
Between two requests, and for bodies, there is no limit but idle_timeout.

Requests on one connection go to the server one after the other. Extensions and trailers of chunked bodies are left
out, and chunks are cut anew, but for small ones. Only a WebSocket ends HTTP on a connection: a GET of HTTP/1.1 that has
"Connection: upgrade" and "Upgrade: websocket", answered by a 101 that says both as well; then bytes pass as they are.
Any other Upgrade is left out, so that no server is offered HTTP/2, or TLS, in which a client could claim anything; and
behind any other 101 nothing more is asked on that connection.
"""

LOG = """
With -l each session leaves one line when it ends: the client's address and port, the time when it was accepted, the
word listener and the name of its listener if that has one, server number and address, the seconds to choose (what a
client takes for its TLS handshake and its first HTTP header included), to connect and in all, the bytes sent to the
server (up) and to the client (down), and how it ended. With log_format json the same is a JSON object (listener is null
for the one without a name); with log_format pen there is a line for each request instead: client, time, server and the
first line of what the client sent. Over TLS, version, cipher and the name that the client asked for (or -) stand at the
end of the line; with unique-id of proxy_v2_options, the word id and that. Where there are routes, the word route and
which one stand behind the listener. With -l HOST:PORT a datagram goes there for each request, in pen's format:
gpenlogd(1) merges these with the logs of web servers. Each listener may have a log of its own, and several may have the
same.

With -l syslog, or syslog:FACILITY, lines go to /dev/log instead, as gpen[PID] and informational; FACILITY is one of
the names of syslog(3) but kern, and local0 unless told. Nobody waits for syslog: while it is not there, or does not
read, lines are lost, which is told once, and how many they were when it takes them again. One that was restarted is
found again; not from within a chroot, unless it listens at dev/log in there as well. ./syslog is a file.

Diagnostics are what gpen itself has to tell: of servers that fail, of changes, of its own faults. In the foreground
they go to stderr, with the time; where that is the journal of systemd (JOURNAL_STREAM), how urgent a line is stands in
front of it instead, as sd-daemon(3) says, so that journalctl -p warning shows what somebody should look after. In the
background they go to syslog, facility daemon; the reason why a start fails always goes to stderr as well.

What clients, servers and the programs of checks say is told in characters that can be printed, here as in the
diagnostics, on the control socket, by gpenctl on a terminal and on the status page: any other is written as the bytes
that it has in UTF-8 (\\x1b, \\xe2\\x80\\xae), and where a text is quoted, a backslash of its own as two. So what
somebody sends is never more than a part of one line. How a session ends:
"""

ROUTES = """
A route gives clients that ask for something certain servers of their own; it is the listener's, and listeners share
what is said without a name, as other settings:

    route sni www.example.org servers 0-1
    route sni *.example.org servers 2
    route alpn acme-tls/1 servers 3
    route default reject

sni is the name in a TLS handshake. Where TLS is not ended here (no -E), gpen reads the client's hello, of up to 16 KiB,
in whatever pieces and records it comes, chooses, and passes it on, with all that follows, byte by byte as it came: the
server ends TLS, with a certificate of its own. alpn is one of the protocols that are offered in it. Of an encrypted
hello (ECH) it is the outer name. A client has ssl_handshake seconds for its hello, and is closed then (tls-handshake);
so is one that waits for the server to speak first: with mysql and greeting routes are refused. One that speaks
something else than TLS, malformed TLS or a larger hello goes the way of those whom no route matches, as soon as that is
seen: whom a route is to keep out, 'route default reject' keeps out for certain.

Where TLS is ended here, sni is the name by which the client was shown a certificate, and alpn what was agreed on
(ssl_alpn). In HTTP mode, host is the Host of a connection's first request, without a port. Later requests of the
connection go to the same server; one whose Host leads another way is answered 421 (Misdirected Request), and the
connection closed: clients then come again. A request for an absolute URL of another host than Host is answered 400.

Names are compared without regard to case and to a dot at the end. *.example.org matches names one level below
example.org: www.example.org, but neither example.org nor a.b.example.org. An exact route goes before a wildcard; else,
of several that match, the one that was said first. default is for clients whom none matches, or who name nothing;
unless there is one, they get the listener's own servers. reject turns clients away: by the alert unrecognized_name
where TLS is passed on, by 421 in HTTP mode, else by a close. The ending is no-route.

A route may lead to servers that the listener does not use otherwise. It has a turn of its own, and remembers which of
its servers each client used last; the rule is the listener's, limits, verdicts and blacklists hold as everywhere, and
so do emergency, abuse, hold and stubborn. The route stands in the log (route, in text behind the time), in 'sessions',
in 'explain ADDRESS sni NAME', and 'listeners json' counts the sessions of each. What routes remember is passed on to a
gpen that replaces this one; peers are told but the server that each client used last, on whichever route.
"""

WORKERS = """
One process serves all, on one core. With 'workers N', or 'workers auto' for one on each processor, N processes more
serve the sessions of TCP, TLS and HTTP, and the main process keeps what must be one: it accepts, chooses a server and
counts the place there, remembers clients, holds who has to wait, checks servers, answers commands, writes the log,
and relays UDP. It passes each client's socket to the worker with the fewest sessions. So limits are exact, and each
command is answered once, for all.

A setting, a listener or a certificate that is changed reaches all workers, or none: when one does not answer, the
change is refused. A worker that ends, by whatever signal, costs its sessions ('worker-lost' in the log) and nothing
else: their places are free, 'events' tells it, and a new worker takes its place, at most one a second. One that gives
no sign for two seconds gets no new sessions until it does; after 10 s that is told, and after 30 s it is killed and
replaced. TERM, INT, HUP and USR1 are for the main process, whose pid is in the pid file; it takes all workers with
it.

The limit of descriptors (LimitNOFILE, ulimit -n) is each worker's: N of them can have N times as many sessions. A TLS
session is resumed by its ticket at whichever worker; once certificates were read again (reload), or with 'ssl_option
no_ticket', only at the one where it began, and elsewhere there is a full handshake.
"""

PEERS = """
With 'peers NAME [HOST:]PORT' and a line 'peer NAME HOST:PORT' for each of the others, balancers tell each other which
client is at which server, by HAProxy's peers protocol (2.1): other gpens, and haproxies with a stick-table of 'srvkey
addr'. A listener's memory of clients is the table of its name, and gpen that of the one without; servers are known by
ADDRESS:PORT, as it was resolved. Whoever has seen a client later is right. What a peer tells is not told on, so each
names all others. One that is gone is tried again every 5 seconds, and told then what it has not acknowledged; one that
starts anew asks for all. clients_max and tracking should be the same everywhere; haproxy's name for the latter is
expire.

Without TLS, only the addresses of peers may connect, and whoever has one of these is believed. With peers_certificate
and peers_ca each side shows a certificate, and takes one of that authority only, from wherever it comes.
"""

RIGHTS = """
Once it serves, no program that gpen starts can gain rights (no_new_privs), and the capability bounding set is empty;
where gpen stays root, it and its programs keep CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_NET_BIND_SERVICE and
CAP_SYS_RESOURCE, and nothing else (with transparent or dsr_if, gpen itself also keeps CAP_NET_RAW, its workers with
transparent alone). So in a program of check exec or on_event sudo, su, ping with file capabilities and whatever else is
set-user-ID do not work. What a check needs to have rights for, let a service or a timer do, and tell gpen: gpenctl
TARGET server N health down because REASON. Such a program gets PATH, LANG and GPEN_* of gpen's environment, and nothing
else: no HOME either, so name files such as ~/.my.cnf by their paths.

A log, pid file, status page, saved configuration or unix socket may be in a directory that others than root and gpen's
own user may write, by owner, group or mode. There gpen follows no symbolic link, whoever made it, nor one on the way
there; takes no file that has a second name (a hard link); and changes mode and owner of what it has just made only. As
root with -u it makes sockets there as that user, and gives the user nothing that was there before: a log that is
root's can't be opened again at HUP, which is told at the start. As root without -u, control_mode counts at the next
start there. In directories that only root may write links are followed: /var/run may lead to /run. Rotate logs in a
directory of a user's as that user: su in logrotate(8).
"""

REPLACEMENT = """
'gpen --replace' with the arguments of a gpen that runs (or 'gpenctl TARGET upgrade', by which that one starts it
itself) takes its place, and no client notices: for another version of gpen, or settings that count at the start only.
It asks at the control socket of -C, which must be a file, as root or the user that the old one runs as; gets all
sockets that listen there; and prepares all that it needs. Only when it is ready does the old one stop accepting, and
pass on what it knows; who connects meanwhile waits in the kernel for some milliseconds. If the new one fails before
that, for whatever reason, it says so in a line and ends, and the old one goes on as if nothing had been. So it does
when the new one is not ready in 30 seconds, or does not serve 5 seconds behind that.

Sessions of TCP stay with the old one, which serves them to their end, but no longer than its drain_timeout, and then
ends with status 0; clients that wait there (hold) go on waiting there. Flows of UDP pass, with their sockets. The pid
file, the control socket and the log pass as well; the old one answers at PATH.old (PATH.old2, ... where that is taken)
instead, looks, drains and closes, but changes nothing. TERM ends it at once. How many sessions the old one has with
each server, servers of the new one tells as old; max and hard, and a listener's max of a server, count them too. A
client of the old one that finds its server only later (one that waits, or has yet to send the head of its first
request) counts from then on, and may be one too many. client_max and conn_max count each gpen's own. Old ones may be
several, one behind the other.

What was said at runtime stays: the new one has the settings, servers, lists, listeners, verdicts, blacklists, states
and the memory of clients that the old one has. Only what its command line and its file say otherwise than those of the
old one said, at its start or the last reload, counts in the place of that, as after a reload. Settings that count at
the start only are as its own command line and file say. A listener that is at another address by that gets a new
socket, and the old one's is closed when those who wait in it were accepted; those that are at the same place keep
theirs, also one whose port the kernel has chosen (port 0).

From within a chroot no program can be started, and upgrade says so: run gpen --replace as root. A user other than root
binds no port below 1024, but keeps those that are passed on.
"""

SERVICE = """
Started with NOTIFY_SOCKET in its environment, as systemd does for Type=notify, gpen says there when it serves
(READY=1, with its pid, also from the background), when a reload begins and ends, and when it ends itself. STATUS=,
which systemctl status shows, is where it listens, how many sessions there are, and how many servers are up, drained
and down: at most every five seconds, and only when that has changed. With WATCHDOG_USEC it gives a sign of life twice
in that time, from the loop that serves the clients, so that one that hangs is found and started again. Who does not
read there holds nobody up, and hears what matters later.

Sockets that are passed on (LISTEN_FDS; a .socket unit of systemd) are taken in the place of binding, over TCP, UDP and
unix sockets. One with the name of a listener (FileDescriptorName=) is for that. All others are for the only listener
that has none then; where there are several, each takes the one at its address. [::]:PORT does for 0.0.0.0:PORT, for so
systemd binds a port alone. A socket that is not what its listener wants keeps gpen from starting, in one line with both
addresses; one that no listener wants is told and closed. backlog and the other settings count for these sockets too;
the file of a unix socket is not removed. While gpen is restarted, new clients wait in the socket, and none is refused.
A listener that moves to another address (listen) or is closed leaves its socket to whoever has passed it on, where
clients wait in vain. With UDP and a socket at all addresses, PassPacketInfo=yes lets those that come before gpen is
there be answered from the address that they have asked.
"""

SIGNALS = (
    ("HUP", "Reopen the logs, read certificates and the country database again, look all names up again, and carry out "
     "what has changed in the file of -F, as the command reload does."),
    ("USR1", "Write the status page to the file of -w, or else a summary to the diagnostics."),
    ("TERM, INT", "Close the listening sockets and the sessions, log them, and exit. A second one: exit at once."),
)

ENVIRONMENT = (
    ("GPEN_PURE", "1 (anything but 0): run as pure Python, and leave alone what of gpen was compiled when it was "
     "installed. 'gpen --version' says (compiled) or (pure); so does the status page. Where some of that is missing, "
     "damaged or of another Python, gpen tells it, and runs as pure Python without being asked."),
    ("JOURNAL_STREAM", "Set by systemd: the device and inode of the stderr that is its journal, so that lines there "
     "tell how urgent they are."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES", "Set by who starts gpen as "
     "a service: see AS A SERVICE. They pass on to no program."),
)

FILES = (
    ("the log (-l)", "Appended to; opened before a chroot and a change of user, and again at HUP. - is standard "
     "output, also in the background; syslog is no file. It may be a FIFO, or a socket that takes lines (datagrams or "
     "a stream): that nobody reads is told, and costs lines only. A line that a full disk has taken half of is "
     "completed when there is room again."),
    ("the pid file (-p)", "Locked while gpen runs, removed at the end; left empty where the user of -u may not "
     "remove it. One that holds anything but a pid, or what a power loss leaves of one, is not overwritten."),
    ("the control socket (-C)", "Made with mode 0600 (control_mode). One that nobody answers on is replaced. With .old "
     "behind its name it is that of a gpen that was replaced, as long as that has sessions."),
    ("in a chroot (-j)", "Log, pid file, sockets, status page and the file of -F are found again after the start only "
     "when they lie inside it; name them as seen from outside."),
    ("/etc/services", "Names of ports; in a chroot as they were at start, unless it has an etc/services of its own."),
    ("/etc/hosts, /etc/resolv.conf, /etc/nsswitch.conf", "How names of hosts are looked up. Once gpen is in a chroot, "
     "etc/hosts and etc/resolv.conf inside it count, so put copies there; where they are missing, the addresses that "
     "were found at start stay, and the diagnostics say so."),
)

GPEN_STATUS = (
    ("0", "Ended as it was told to; in the background: it serves."),
    ("1", "It could not start (an address in use, a file that can't be written), or failed."),
    ("2", "A wrong option, address, name or configuration; nothing was opened."),
)

GPEN_EXAMPLES = (
    ("In front of a Galera cluster:",
     "gpen -l gpen.log -p gpen.pid localhost:3306 10.0.0.1:3306 10.0.0.2:3306 10.0.0.3:3306"),
    ("The same where nobody shall notice a node that is not well (see gpen-galera(1)):",
     "gpen -r -C /run/gpen.ctl -O mysql -O 'greeting 1' -O 'hold 10' 3306 10.0.0.1 10.0.0.2 10.0.0.3"),
    ("Three web servers in turn, in the foreground, with a control socket:",
     "gpen -f -r -C /run/gpen.ctl 80 www1:8000 www2:8000 www3:8000"),
    ("One server preferred, the second when the first is down, and a page that says sorry:",
     "gpen -r -O prio -e localhost:8099 80 www1:8000::::1 www2:8000::::2"),
    ("Name servers, over UDP and TCP:",
     "gpen -r -O 'udp_replies 1' -O 'udp_timeout 3' 53/udp,53/tcp 10.0.0.1 10.0.0.2"),
    ("TLS for web servers that shall know their clients:",
     "gpen -r -H -E /etc/gpen/www.pem -K /etc/gpen/www.key 443 www1:8000 www2:8000"),
    ("Both ports of a site, where a client has one server, whichever it comes to:",
     "gpen -H -O 'listener 443 ssl_certificate /etc/gpen/www.pem' -O 'listener 443 tracking_with -' \\\n"
     "    80,443 www1:8000 www2:8000"),
    ("One of several balancers, all of which give a client the same server:",
     "gpen -O stateless 3306 10.0.0.1 10.0.0.2 10.0.0.3"),
    ("50,000 connections at a time to one server, from two addresses of this machine:",
     "gpen -O 'conn_max 50000' -O 'source 10.0.0.20,10.0.0.21' 3306 10.0.0.1"),
    ("Is this file right?", "gpen --check -F /etc/gpen/web.cfg"),
    ("The same gpen, in another version, while its clients go on:",
     "gpen --replace -F /etc/gpen/web.cfg -C /run/gpen.ctl"),
)

CTL_DESCRIPTION = """
gpenctl sends a COMMAND to the gpen (or pen) at TARGET, the /PATH or HOST:PORT of its option -C, and shows the reply:
as a table on a terminal, as pen's plain lines elsewhere. Without a COMMAND it opens a prompt with history and
completion, or reads commands from a stdin that is not a terminal. 'watch' redraws the table of servers, and that of
listeners where any has a name, each second until Ctrl-C; 'top' does more of that kind (TOP, below). Options may stand
behind TARGET as well; what stands behind -- is the COMMAND's. Before anything else gpenctl asks for the pid, so that
nobody but a daemon is told a command.
"""

CTL_OPTIONS = (
    ("-f FORMAT, --format=FORMAT", "table, plain, json or csv. When not given: table on a terminal, plain elsewhere."),
    ("-t SEC, --timeout=SEC", "Seconds to wait for a connection and for each part of an answer. Default: 10."),
    ("--color=WHEN", "auto, always or never; auto respects NO_COLOR."),
    ("-h, --help", "Show the usage."),
    ("--version", "Show the version."),
)

CTL_TOP = """
'top' shows on the whole terminal, each second or every so many SECONDS: sessions of how many, new ones and bytes a
second, the clients that wait, and what ended by an error; listeners where any has a name; servers with their state and
health, sessions as a bar of their limit, rates, failures, a graph of the last three minutes, and why one is not up;
all about the selected server; the last events. A narrow terminal shows the columns that matter most. What a key does
to a server or a session is asked before, and only y is yes; it counts for the server at the address that was shown.
NO_COLOR, TERM and the locale's encoding are honoured: without colours words say the same, and without UTF-8 graphs are
of ASCII. A gpen that is away is told, and asked again. 'top' needs the Python package rich; 'watch' does without.
"""

CTL_TOP_KEYS = (
    ("q", "Quit."),
    ("s, left, right, 1 to 9", "Choose the column to sort by; r reverses the order."),
    ("up, down, page up, page down, home, end", "Select a server."),
    ("d, m, y", "Drain it, maint, or ready again."),
    ("c", "Its sessions, where x closes the selected one; c again leads back."),
    ("g", "What the graphs show: bytes/s, new sessions/s, or sessions."),
    ("space, +, -", "Pause; look less often, or more. Ctrl-L draws everything anew, and ? tells the keys."),
)

SETTINGS = """
NAME reads a setting, NAME VALUE sets it, and 'no NAME' puts its default back. A flag, and keepalive, is switched on by
NAME and off by 'no NAME'. Behind 'listener LISTENER' this is said to one of several listeners, where 'inherit NAME'
takes the shared value again; gpen(1) tells more, under SEVERAL LISTENERS.
"""

PROTOCOL = """
A line goes in, the reply comes out. Words are separated by blanks; a word in double quotes may contain them; a word
that begins with # begins a comment. Several lines may be sent on one connection, at once or while a reply is on its
way; it is closed at the end of its input, and with the reply to the last line that has come. A client that will send
more later begins with the line 'stay': then the connection is open until it ends it, or is silent for 10 minutes. No
line tells the end of a reply: who needs that ends the input, asks for JSON, which is one line, or sends a line whose
reply is known, such as 'pid'. An error is one line that begins with 'error:'; a command that is not known is answered
as pen does. 'json' at the end of a command that lists something asks for one line of JSON.
"""

CTL_FILES = (
    ("~/.local/state/gpenctl_history", "The history of the prompt; below $XDG_STATE_HOME if that is set. Root keeps "
     "none in the home of a user."),
)

CTL_STATUS = (
    ("0", "The command was carried out."),
    ("1", "The daemon answered with an error, or standard output could not be written."),
    ("2", "Wrong usage."),
    ("3", "No connection to the daemon, or TARGET is not a control socket."),
    ("130", "Ended by Ctrl-C."),
)

CTL_EXAMPLES = (
    ("How are the servers?", "gpenctl /run/gpen.ctl servers"),
    ("Take server 1 out of service gently, and back:",
     "gpenctl /run/gpen.ctl drain 1 30\ngpenctl /run/gpen.ctl server 1 state ready"),
    ("Add a server, and delete one:",
     "gpenctl /run/gpen.ctl server 3 address 10.0.0.4:3306 max 200\ngpenctl /run/gpen.ctl no server 0"),
    ("Look at it living:", "gpenctl /run/gpen.ctl top"),
    ("Who would serve that client, and why not the others?", "gpenctl /run/gpen.ctl explain 192.0.2.7"),
    ("Open another port, for two of the servers, and close it again:",
     "gpenctl /run/gpen.ctl listener reports listen 3309\ngpenctl /run/gpen.ctl listener reports servers 1-2\n"
     "gpenctl /run/gpen.ctl no listener reports"),
    ("Keep the configuration for the next start:", "gpenctl /run/gpen.ctl write /etc/gpen/web.cfg"),
    ("Replace it by the version that is installed now, and look at what the old one has yet:",
     "gpenctl /run/gpen.ctl upgrade\ngpenctl /run/gpen.ctl.old sessions"),
)
