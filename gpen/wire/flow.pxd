cimport cython
from gpen.model.client cimport Client
from gpen.model.lease cimport Lease
from gpen.model.selector cimport Selector
from gpen.model.server cimport Server
from gpen.model.silence cimport Silence
from gpen.wire cimport kernel, sockets
from gpen.wire.conversation cimport Conversation, Front
from gpen.wire.kernel cimport Datagrams, Handler, Socket
from gpen.wire.poller cimport Poller


cdef unsigned int EPOLLIN
cdef int MOST_REPLIES, KEPT_DATAGRAMS, KEPT_BYTES, FEW_REPLIES


cdef class Flow(Conversation):
    cdef readonly object key
    cdef object _listener, _flows, _mark, _watch
    cdef public long long requests
    cdef Silence _silence
    cdef list _kept
    cdef Datagrams _clients
    cdef Socket _sock
    cdef tuple _end
    cdef list _tried, _untried
    cdef int _fd
    cdef double _active, _dialed, _oldest
    cdef public bint is_lent
    cdef bint _denied, _proven, _has_room, _is_done
    cdef long long _asked, _replies, _kept_bytes, _wanted, _received, _told, _sent
    cpdef object stop(self, object ending)
    cpdef bint open(self, bint crowded) except -1
    cpdef object send(self, bytes data)
    cpdef object leave_off(self)
    cdef object _make_room(self)
    cpdef bint has_sent(self, object data) except -1
    cdef object _keep(self, bytes data)
    cdef object _forget_kept(self)
    @cython.locals(replies=cython.longlong)
    cpdef object read(self, double now)
    cpdef object end_if_done(self)
    @cython.locals(lease=Lease, silence=Silence)
    cdef object _pass_on(self, bytes data, double now, cython.longlong replies)
    @cython.locals(lease=Lease, endpoints=tuple)
    cdef object _prove(self)
    @cython.locals(client=Client, server=Server, lease=Lease)
    cdef object _dial(self, object ending, bint crowded=*)
    cdef Lease _reserve(self, bint crowded)
    @cython.locals(selector=Selector)
    cdef Lease _reserve_one(self)
    @cython.locals(lease=Lease, front=Front)
    cdef object _connect(self)
    cpdef object _close(self)


cdef class Replies(Handler):
    cdef Flow _flow
    @cython.locals(flow=Flow, poller=Poller)
    cpdef object ready(self, unsigned int events)
    cpdef object failed(self)
