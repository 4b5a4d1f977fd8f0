"""One TCP conversation: from the accepted client to its line in the log.

    announce  a PROXY protocol header, where one is due      switches
    admit     access list, client memory                     one step
    secure    the TLS handshake, where clients speak TLS     switches
    listen    the head of the first request, with HTTP       switches
    dial      reserve a place or wait for one, connect,      switches
              greeting, fail over
    relay     until both ends are done                       without a greenlet: the hub calls
    close     sockets, place, counters, one log line         always, once: the only exit

It runs in a greenlet, which is given back when bytes flow: of an idle session's 8.1 KB that took 6.4.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import gevent
from gevent.hub import get_hub
from greenlet import getcurrent

from gpen.model.address import UNIX, Endpoint, normalize
from gpen.model.client import Client
from gpen.model.ending import Ending
from gpen.model.lease import Lease
from gpen.model.route import Asked, Key, Table, called
from gpen.model.server import Server
from gpen.proto import proxy_header
from gpen.proto.http import HttpOpening
from gpen.proto.protocol import Farewell, Opening, Refused
from gpen.proto.proxy_tlvs import AUTHORITY, Tlv
from gpen.wire import kernel, proxy, sockets
from gpen.wire.conversation import FIRST_PAUSE, Condemned, Conversation, Front, Seeker, Stop, Watch
from gpen.wire.dial import dial
from gpen.wire.dummy import answer
from gpen.wire.follower import Follower
from gpen.wire.http import HttpFilter, read_opening
from gpen.wire.introduction import Introduction, introduction, tls_tlvs
from gpen.wire.poller import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP, Call
from gpen.wire.quiet import has_fallen_quiet
from gpen.wire.relay import PLAIN, End, Stream, Tap
from gpen.wire.server_tls import ServerStream, tls_name
from gpen.wire.shaping import Shaper
from gpen.wire.tls import HandshakeError, Terminator, TlsStream

log = logging.getLogger("gpen")

_SHORTAGE_PAUSE = 0.1
STALLED_SECONDS = 10.0
_HEADER_SECONDS = 3.0
_LINGER_SECONDS = 1.0
_FEW = 16  # sessions of an address, beside which those that are refused for client_rate may linger
# to find a member of an Enum takes long
_CLIENT_CLOSED, _SERVER_CLOSED, _ERROR = Ending.CLIENT_CLOSED, Ending.SERVER_CLOSED, Ending.ERROR
_FASTCLOSE = {"off": (), "up": ("up",), "down": ("down",), "both": ("up", "down")}


class Session(Seeker):
    """One TCP client with its server."""

    __slots__ = ("_announced", "_kept_alive", "_lingers", "_opening", "_protocol", "_relaying", "_route", "_status",
                 "down", "stalled", "up")

    def __init__(self, id: int, front: Front, sock: Any, address: str, port: int) -> None:
        Conversation.__init__(self, id, front, address, port)  # and what Seeker's has, without one call more
        self._greenlet = None
        self._held = 0.0
        self._pause = FIRST_PAUSE
        self._problem = ""
        self._protocol = front.protocol  # to the end, whatever becomes of the settings
        self.down = End(sock, front.poller, self)
        self.up: End | None = None
        self.stalled = (0, 0.0)
        self._relaying = False
        self._kept_alive = 0  # of its two sides
        self._route: proxy_header.Route | None = None
        self._announced = False
        self._opening: Opening | None = None  # until a server gets it
        self._status = 0  # the protocol's, where it refuses what the client says
        self._lingers = False  # whether its last words need time to arrive

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def tlvs(self) -> Sequence[Tlv]:
        return () if self._route is None else self._route.tlvs

    @property
    def state(self) -> str:
        if self.finished:
            return "ending"
        if self.up is None:
            if self.lease is not None:
                return "connecting"
            if self._held:
                return "held"
            if self._is_unknown:
                return "handshake"
            return self._opening.state if self._opening is not None and self._is_listening else "choosing"
        if self.down.deaf or self.up.deaf:
            return "ending"
        return "half-closed" if self.down.has_parted or self.up.has_parted else "open"

    @property
    def _is_unknown(self) -> bool:
        """Whether the client has yet to introduce itself: by a PROXY header, or in its TLS handshake."""
        return self.client is None or (self._front.tls is not None and self.secured is None)

    @property
    def _is_listening(self) -> bool:
        """Whether the client has yet to say what it wants, where a server waits for that."""
        return self._opening is not None and not self._opening.is_whole

    @property
    def descriptors(self) -> tuple[int, int]:
        return self.down.fd, self.up.fd if self.up is not None else -1

    def volumes(self) -> tuple[int, int, int, int]:
        up, down = self.up, self.down
        if up is None:
            return 0, 0, down.sent, down.received
        return up.sent, up.received, down.sent, down.received

    @property
    def waiting(self) -> int:
        ends = (self.down, self.up) if self.up is not None else (self.down,)
        return sum(len(end.pending or b"") for end in ends)

    @property
    def ended_sides(self) -> tuple[bool, bool]:
        return self.up is not None and self.up.eof, self.down.eof

    def idle(self, now: float) -> float:
        return max(now - max(self.down.active, self.up.active if self.up else 0), 0.0)

    def stop(self, ending: Ending) -> None:
        get_hub().loop.run_callback(self._stop, ending)

    def is_quiet(self, now: float) -> bool:
        up, seconds = self.up, self._front.settings.quiet
        if not self._relaying or up is None or (isinstance(up.filter, HttpFilter) and not up.filter.is_at_rest):
            return False
        if isinstance(self._protocol, Follower):
            return self._protocol.is_quiet(seconds, now)
        return has_fallen_quiet(self.down, up, seconds, now)

    def end_when_quiet(self, ending: Ending) -> None:
        super().end_when_quiet(ending)
        if isinstance(self._protocol, Follower):
            self._protocol.follow()

    def part(self, ending: Ending) -> None:
        if isinstance(self._protocol, Follower):
            self._protocol.say_goodbye()
        self._stop(ending)

    def spare(self) -> None:
        super().spare()
        if isinstance(self._protocol, Follower):
            self._protocol.leave_off()

    def _give_up(self) -> None:
        """In the hub at once: what was read may be lost, and nothing may follow it. Elsewhere the hub has to do it, for
        whoever switches to the session's greenlet from there is not switched back to."""
        if getcurrent() is get_hub():
            self._stop(Ending.ERROR)
        else:
            self.stop(Ending.ERROR)

    def leave(self, lease: Lease, ending: Ending | None = None) -> None:
        get_hub().loop.run_callback(self._leave, lease, ending)

    def _leave(self, lease: Lease, ending: Ending | None) -> None:
        if self.lease is not lease or self.finished:
            return
        if self.up is None:
            self._greenlet.throw(Condemned())
        elif ending is not None:
            self._stop(ending)

    def tend(self, now: float) -> None:
        """The janitor's visit: end the session when it is idle for too long, or when its last bytes don't move."""
        settings = self._front.settings
        limit = settings.idle_timeout
        self.keep_alive()
        if not (self._relaying or self._is_listening):
            return
        if limit and self.idle(now) >= limit:
            self.stop(Ending.IDLE)
        elif self._relaying:
            if self.up is not None and isinstance(self.up.filter, HttpFilter):
                self.up.filter.tend(now, settings.http_head_timeout)
            self._tend_last_bytes(now)

    def keep_alive(self) -> None:
        ends = 0 if self.finished else 1 if self.up is None else 2
        while self._kept_alive < ends:
            end = self.up if self._kept_alive else self.down
            assert end is not None
            sockets.keep_alive(end.sock, self._front.settings)
            self._kept_alive += 1

    # --- its life -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The conversation until bytes flow, or to its end if it comes before. Switches greenlets."""
        self._greenlet = getcurrent()
        ending: Ending | None = Ending.ERROR
        try:
            ending = self._converse()
        except Stop as stop:
            ending = stop.ending
        except Exception as error:
            ending = self._ending_by(error)
        finally:
            if ending is not None:
                self.ending = ending
                self._end()
            self._greenlet = None  # which serves others from now on

    def _ending_by(self, error: Exception) -> Ending:
        """How a session ends that failed by no fault of its client or server: its sockets can't be watched, say."""
        if isinstance(error, OSError) and error.errno in sockets.SHORTAGES:
            self._front.troubles.tell(f"sessions fail: {sockets.cause_of(error)}")
            return Ending.LOCAL
        self._report()
        return Ending.ERROR

    def _converse(self) -> Ending | None:
        """How it has ended; None when bytes flow."""
        front = self._front
        settings = front.settings
        if settings.accept_proxy != "off" and not self._announce():
            return Ending.PROXY_HEADER
        denied = self._admit()
        if denied and front.selector.abuse is None:
            return Ending.DENIED  # at once: a TLS handshake costs more than the rest of a session
        if settings.limits_clients and (limit := self._limit()) is not None:
            return limit
        if front.tls is not None and not self._secure(front.tls):
            return Ending.TLS
        if settings.dummy:
            return answer(self.down, front.poller, settings.idle_timeout)
        self._opening = self._protocol.opening(self.address, "http" if self.secured is None else "https")
        if self._opening is not None and (ending := self._listen(self._opening)) is not None:
            return ending
        front.dialing += 1
        try:
            sock = self._dial(denied)
        finally:
            front.dialing -= 1
            if settings.pending_max:
                front.resume()
        if isinstance(sock, kernel.Socket):
            return self._relay(sock, PLAIN)
        return self._relay_secured(sock) if isinstance(sock, ServerStream) else sock

    def _announce(self) -> bool:
        """Learn from a proxy who the client is; False when it does not say so as it should."""
        front, number = self._front, self._front.settings.accept_proxy
        if not front.selector.permits(int(number), Client(self.address, -1)):
            return True
        self._announced = True
        try:
            self._route = proxy.read_header(self.down.sock, front.poller, _HEADER_SECONDS)
        except proxy_header.HeaderError as error:
            log.info("session %d: PROXY protocol header of %s: %s", self.id, self.peername, error)
            return False
        if self._route is not None:
            self.address, self._port = self._route.source or UNIX, self._route.source_port
        return True

    def _secure(self, tls: Terminator) -> bool:
        """TLS with the client; False when there is none. In HTTP mode what it asks for is not all known by that."""
        front = self._front
        is_secured = self._shake_hands(tls)
        if is_secured and front.routes is not None and not front.settings.http and (
                ending := self._take_route(front.routes)):
            raise Stop(ending)
        return is_secured

    def _shake_hands(self, tls: Terminator) -> bool:
        """The TLS handshake; False when it failed."""
        front = self._front
        try:
            channel = tls.accept(self.down.sock, front.poller, front.settings.ssl_handshake)
        except HandshakeError as error:
            log.debug("session %d: TLS handshake of %s: %s", self.id, self.peername, error)
            return False
        self.secured = channel.secured
        self._front.handshakes.of_clients += 1
        self.down.speak(TlsStream(channel))
        if front.settings.proxy_v2_options:
            route = self._route or self._own_route()
            self._route = route._replace(own=tls_tlvs(channel, front.settings.proxy_v2_options))
        return True

    def _listen(self, opening: Opening) -> Ending | None:
        """Learn what the client wants before a server is troubled; why the session ends, if it does not say so as it
        should, or gets nothing."""
        front, down = self._front, self.down
        if self._route is not None and (told := self.introduced) is not None and told.is_secure:
            self._opening = opening = self._protocol.opening(self.address, "https") or opening
        if self.secured is not None and front.tls is not None and front.tls.has_doors and isinstance(
                opening, HttpOpening):
            opening.keep_to(partial(front.tls.is_let_in, self.secured.sni))
        try:
            if read_opening(opening, down, front.poller, opening.seconds(front.settings)):
                return None if front.routes is None else self._take_route(front.routes, opening)
        except Refused as refused:
            return self._turned_away(refused.status, str(refused))
        except OSError as error:
            if error.errno in sockets.SHORTAGES:
                raise
            return Ending.CLIENT_RESET
        return Ending.TRUNCATED if down.truncated else Ending.CLIENT_CLOSED

    def _take_route(self, routes: Table, opening: Opening | None = None) -> Ending | None:
        """Go the way of what the client asks for; why the session ends, if that is rejected."""
        asked = opening.asked if opening is not None else Asked()
        if self.secured is not None:
            protocol = self.down.stream.protocol
            asked = asked._replace(sni=self.secured.sni, alpn=(protocol,) if protocol else ())
        elif asked.sni and "authority" in self._front.settings.proxy_v2_options:
            route = self._route or self._own_route()
            self._route = route._replace(own=((AUTHORITY, asked.sni.encode()),))
        key = routes.find(asked)
        self._follow(key)
        if routes.rejects(key):
            log.debug("session %d: route %s rejects %s", self.id, called(key), self.peername)
            self._status = opening.misdirected if opening is not None else 0
            return Ending.NO_ROUTE
        if isinstance(opening, HttpOpening):
            opening.stay_with(lambda host: routes.find(asked._replace(host=host)) == key)
        return None

    def _follow(self, key: Key) -> None:
        """This way, from now on."""
        self._selector = self._front.take_route(key)

    def _dial(self, denied: bool) -> Any:
        """A socket that is connected to a server, or why there is none."""
        client = self.client
        assert client is not None
        tried: list[Server] = []
        ending: Ending | None = None
        while True:
            lease = self._reserve(denied, client, tried)
            if lease is None:
                return ending or (Ending.DENIED if denied else Ending.NO_SERVER)
            self.lease = lease
            self.server = server = lease.server
            self.chosen = kernel.monotonic()
            try:
                sock = self._connect(lease)
            except (OSError, Condemned) as error:
                ending = self._unreached(lease, error)
                if not lease.is_outdated:  # else the client may have it where it is now
                    tried.append(server)
                continue
            self.connected = kernel.monotonic()
            lease.connected()
            if server.number is not None and self._front.settings.rule.remembers:
                self.clients.stick(client, server)
            return sock

    def _watch_client(self) -> None:
        self._front.poller.add(self.down.fd, EPOLLRDHUP, Call(self._client_left))

    def _ignore_client(self) -> None:
        self._front.poller.remove(self.down.fd)

    def _client_left(self, events: int) -> None:
        """The client has ended its side, or all. One that spoke may wait for an answer behind a half-close; one that
        said nothing, or would not speak first, is gone."""
        down = self.down
        has_spoken = self._opening is not None or (not self._protocol.server_speaks_first and down.has_spoken())
        if not events & (EPOLLERR | EPOLLHUP) and has_spoken:
            self._front.poller.change(down.fd, 0)
        else:
            self._stop(Ending.CLIENT_RESET if events & EPOLLERR else Ending.CLIENT_CLOSED)

    def _connect(self, lease: Lease) -> Any:
        """Connect to the first of the server's addresses that answers. They share the connect timeout.

        When this machine is out of descriptors or memory, it is worth waiting: the client need not know.
        """
        front = self._front
        settings, server_tls = front.settings, front.server_tls
        now = self.chosen
        deadline = now + settings.timeout
        problem: OSError | None = None
        target = lease.target
        endpoints = list(target.endpoints)
        header = introduction(self, self._route or self._own_route()) if settings.introduces else b""
        while endpoints:
            share = (deadline - now) / len(endpoints)
            self.endpoint = endpoint = endpoints.pop(0)
            try:
                sock = (dial(endpoint, settings, front.poller, share, self._protocol, header) if server_tls is None else
                        self._dial_secured(lease, endpoint, share, header))
                if problem is not None and endpoint in target.endpoints:
                    front.selector.pool.prefer(target, endpoint)
                self.endpoint = endpoint
                return sock
            except OSError as error:
                now = kernel.monotonic()
                if error.errno in sockets.SHORTAGES and now < deadline:
                    endpoints.insert(0, endpoint)
                    if not front.shed():
                        gevent.sleep(_SHORTAGE_PAUSE)
                        now += _SHORTAGE_PAUSE
                    continue
                if error.errno == errno.EPROTO:  # it connected: the time for its greeting is none of the others'
                    deadline = now + settings.timeout
                if problem is None or problem.errno in sockets.LOCAL_ERRORS:
                    problem = error
        raise problem or OSError(0, "its name is not resolved")

    def _dial_secured(self, lease: Lease, endpoint: Endpoint, seconds: float,
                      header: bytes | Introduction) -> Any:
        """As ``dial``, where some servers speak TLS: a socket, or the stream on it. Switches greenlets. Raises
        OSError."""
        front, name = self._front, self._name_for(lease)
        if name is None:
            return dial(endpoint, front.settings, front.poller, seconds, self._protocol, header)
        assert front.server_tls is not None
        stream = front.server_tls.dial(endpoint, name, front.settings, front.poller, seconds, self._protocol, header)
        stream.refused = self._refused_by_server
        self.secured_server = stream.secured
        self._count_handshake(stream)
        return stream

    def _name_for(self, lease: Lease) -> str | None:
        """The name that a server is asked for in TLS; None where it speaks plainly."""
        return tls_name(lease.server, self._front.settings)

    def _count_handshake(self, stream: ServerStream) -> None:
        handshakes = self._front.handshakes
        handshakes.of_servers += 1
        handshakes.resumed += stream.is_resumed

    def _refused_by_server(self, cause: str) -> None:
        """Behind its handshake, and before its first byte, the server says that it does not want us."""
        if self.lease is not None:
            self.lease.refused(cause)

    def _own_route(self) -> proxy_header.Route:
        name = self.down.sock.getsockname()
        if not isinstance(name, tuple):
            return proxy_header.Route("", 0, "", 0, name)
        return proxy_header.Route(self.address, self._port, normalize(name[0]), name[1])

    def _relay_secured(self, stream: ServerStream) -> Ending | None:
        """As ``_relay``, with what has come with the handshake already."""
        self._relay(stream.sock, stream)
        if self._relaying and self.up is not None:
            self.up.wake()
        return None if self._relaying else self.ending

    def _relay(self, sock: Any, stream: Stream) -> Ending | None:
        front, down = self._front, self.down
        opening = self._opening
        way = None
        if opening is not None and isinstance(opening, HttpOpening):  # isinstance alone takes longer to say no
            way = HttpFilter(opening, self._refuse_request)
        self.up = up = End(sock, front.poller, self, stream, way)
        watch = front.watch(self)
        if watch is not None:
            down.tap, up.tap = _shows(watch, "client"), _shows(watch, "server")
        self._relaying = True
        down.start(up)
        up.start(down)
        if front.settings.accept_proxy != "off" and not self._announced and way is None:
            proxy.guard(down, self._refuse_header)
        if (shaper := front.limits.shaper) is not None:
            shaper.attach(down, up)
        if opening is not None:
            self._ask(opening)
        if self._protocol.server_speaks_first:
            if self._protocol.is_followed:
                self._protocol = Follower(self._protocol, down, up)
            up.ready(EPOLLIN)  # from now on the client has a server: nothing comes in between
        if self._relaying and down.stream is not PLAIN:
            down.wake()
        return None if self._relaying else self.ending

    def _ask(self, opening: Opening) -> None:
        """Give a server what the client said before it had one."""
        down, up = self.down, self.up
        assert up is not None
        heard = memoryview(bytes(opening.heard))
        self._opening = None  # it is large
        if down.tap is not None:
            down.tap(down, heard)
        if isinstance(opening, HttpOpening):
            assert isinstance(up.filter, HttpFilter)
            up.filter.begin(opening)
        elif not up.deaf:  # as it is where the tap has refused it
            up.begin(heard)

    def _refuse_request(self, status: int, reason: str) -> None:
        """HTTP's word that the client's request gets this status instead of an answer."""
        self.stop(self._turned_away(status, reason))

    def _turned_away(self, status: int, reason: str) -> Ending:
        """Note what the client is to be told; how the session ends."""
        log.debug("session %d: request of %s refused (%d): %s", self.id, self.peername, status, reason)
        self._status = status
        return self._protocol.ending_of(status)

    def _refuse_header(self) -> None:
        log.info("session %d: a PROXY protocol header of %s, who may not send one", self.id, self.peername)
        self.stop(Ending.PROXY_HEADER)

    def shape(self, shaper: Shaper) -> None:
        """Its bytes move no faster than they may from now on."""
        if self._relaying and self.up is not None:
            shaper.attach(self.down, self.up)

    def settle(self, end: End) -> None:
        """An End's word that it has ended, or has delivered its last byte: is the session over?"""
        up, down = self.up, self.down
        assert up is not None
        closed = _CLIENT_CLOSED if end is down else _SERVER_CLOSED
        if self.ending is None or (end.reset and self.ending is closed):  # a close may turn out to be a reset
            self.ending = closed if not (end.reset or end.truncated) else _ending_of(end, end is down)
        if self._front.settings.tcp_fastclose != "off" and end.eof and not end.deaf and self._closes_fast(end):
            end.mute()
        if up.pending is None and down.pending is None and (
                (up.eof and down.eof) or (end.eof and end.deaf and _is_last(end))):
            self._finish(self.ending)
        elif end is up:
            self.parted(up)

    def _closes_fast(self, end: End) -> bool:
        return ("down" if end is self.down else "up") in _FASTCLOSE[self._front.settings.tcp_fastclose]

    def parted(self, end: End) -> None:
        """The other machine has ended this side of the session. The server's: its place there is free, whatever the
        client does, while the session goes on for what is left to say; the lease still tells where it is."""
        lease = self.lease
        if end is self.up and lease is not None and lease.is_open:
            lease.release()
            self._front.stir()

    def _tend_last_bytes(self, now: float) -> None:
        """One side has ended. Where it is gone, the session ends when the other has got everything, or takes nothing
        for STALLED_SECONDS; where it is half-closed, when nothing moves for half_closed_timeout."""
        assert self.up is not None
        ends, limit = (self.down, self.up), self._front.settings.half_closed_timeout
        if not any(end.deaf or end.has_parted for end in ends):
            return
        rest = sum(len(end.pending or b"") + end.unacknowledged() for end in ends)
        if rest != self.stalled[0]:
            self.stalled = (rest, now)
        if (shaper := self._front.limits.shaper) is not None and shaper.delays(*ends):
            return
        if any(end.deaf or end.reset for end in ends):
            if not rest or now - self.stalled[1] > STALLED_SECONDS:
                self.stop(self.ending or (Ending.CLIENT_RESET if self.down.reset else Ending.SERVER_RESET))
        elif limit and min(self.idle(now), now - self.stalled[1]) >= limit:
            self.stop(Ending.HALF_CLOSED)

    def _finish(self, ending: Ending) -> None:
        """Close, unless the greenlet is at work yet, which will. Where last words need time to arrive, in another."""
        if self._relaying:
            self._relaying = False
            self.ending = ending
            if self._greenlet is not None:
                return
            if self._status:
                self._front.greenlets.start(self._end)
            else:
                self._end()

    def _stop(self, ending: Ending) -> None:
        if self._relaying:
            self._finish(ending)
        elif not self.finished and self._greenlet is not None:
            self._greenlet.throw(Stop(ending))

    def _end(self) -> None:
        """The only exit. What goes wrong in one of its steps keeps none of the others from being done.

        They are written out, for a loop over them takes 1,500 instructions more in pure Python: 1% of a connection."""
        self._relaying = False
        self.finished = kernel.monotonic()
        try:
            if self.up is None or self._status:  # else its server has said all there was to say
                self._say_goodbye()
            elif self.ending is _ERROR:  # bytes may be missing: an end would say that this was all
                sockets.reset_at_close(self.up.sock)
                sockets.reset_at_close(self.down.sock)
        except Exception:
            self._report()
        try:
            if self.up is not None:
                self.up.close()
        except Exception:
            self._report()
        try:
            self._settle_accounts()
        except Exception:
            self._report()
        try:
            self._leave_client()
        except Exception:
            self._report()
        try:
            self._front.ended(self)
        except Exception:
            self._abandon()

    def _say_goodbye(self) -> None:
        words = self._last_words()
        self.down.say(words)
        # a client that is silent until its server speaks has sent nothing that could bring a reset about
        self._lingers = bool(words) and not (self._protocol.server_speaks_first or self._is_one_of_many)

    @property
    def _is_one_of_many(self) -> bool:
        """Whether so many of one address are turned away that they would fill conn_max while they linger."""
        if self.ending is Ending.CLIENT_RATE:
            return self._others >= _FEW
        return self.ending is Ending.CLIENT_MAX and self._others >= 2 * self._front.settings.client_max

    def _seconds_away(self) -> int:
        """For how long its address is not let in, where that begins sessions too often."""
        guard = self._front.limits.guard
        return guard.seconds_told(self.address) if guard is not None else 0

    def _last_words(self) -> bytes:
        """What a client is told that gets no server, or asked for what it can't have."""
        ending = self.ending
        if ending is None:
            return b""
        if self._is_unknown and self._front.tls is not None:
            return b""  # it would take them for TLS
        waited = self.finished - self._held if self._held else 0.0
        away = self._seconds_away() if ending is Ending.CLIENT_RATE else 0
        return self._protocol.farewell(Farewell(ending, self.address, self._others, waited, self._problem,
                                                self._is_crowded, self._status, away))

    def _is_crowded(self) -> bool:
        """Whether all servers that could serve are full."""
        return self._selector.is_crowded()

    def _leave_client(self) -> None:
        try:
            if self._lingers:
                self._linger()
        finally:
            self.down.close()

    def _linger(self) -> None:
        """Read what the client still sends, for a moment: to close with unread bytes is to reset, and that may overtake
        our last words."""
        self._front.stir()  # its place is free already
        down, poller = self.down, self._front.poller
        deadline = kernel.monotonic() + _LINGER_SECONDS
        down.half_close()
        poller.remove(down.fd)
        try:
            while poller.wait(down.fd, EPOLLIN, deadline - kernel.monotonic()) and sockets.drop(down.sock):
                pass
        except OSError:
            return  # gone


def _shows(watch: Watch, whence: str) -> Tap:
    return lambda end, data: watch(whence, data)


def _is_last(end: End) -> bool:
    """Whether the other side has got all that came from this one."""
    return not end.peer.unacknowledged()


def _ending_of(end: End, is_client: bool) -> Ending:
    """How a side ended that did not just close."""
    if not end.reset:
        return Ending.TRUNCATED if is_client else Ending.SERVER_TRUNCATED
    return Ending.CLIENT_RESET if is_client else Ending.SERVER_RESET
