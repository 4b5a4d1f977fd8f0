cimport cython
from gpen.wire cimport kernel
from gpen.wire.kernel cimport Handler, Socket
from gpen.wire.poller cimport Poller
from gpen.wire.relay cimport End, Stream


cdef int AGAIN, LOST, MORE, _UNIX
cdef Py_ssize_t _RECORD
cdef unsigned int EPOLLIN, EPOLLOUT


cdef class Channel:
    cdef object __weakref__
    cdef public object incoming, outgoing, tls
    cdef public object secured
    cdef public bytes sent
    cdef public str sni, objection
    cpdef bint step(self) except -1


cdef class Terminator:
    cdef object _context, _by_name, _own_names, _protocols
    cdef bint _asks, _separates
    cdef readonly bint has_doors
    cpdef Channel accept(self, Socket sock, Poller poller, double seconds)
    @cython.locals(is_done=bint)
    cdef object _shake_hands(self, Channel channel, Socket sock, _Pauses pauses)
    cdef bint _choose(self, Channel channel, str name) except -1
    cdef object _context_of(self, str name)


cpdef object shake_hands(Channel channel, Socket sock, Poller poller, double seconds)


cdef class _Pauses(Handler):
    cdef int _fd
    cdef unsigned int _mask
    cdef double _deadline
    cdef Poller _poller
    cdef object _switch, _timer
    @cython.locals(poller=Poller)
    cdef object wait(self, unsigned int mask)
    cdef object end(self)


@cython.locals(count=Py_ssize_t)
cdef Py_ssize_t _received(Socket sock, _Pauses pauses) except -1
@cython.locals(sent=Py_ssize_t)
cdef object _send(Socket sock, bytes data, _Pauses pauses)
cdef object _acknowledge(Socket sock)


cdef class TlsStream(Stream):
    cdef End _end
    cdef Socket _sock
    cdef bytes _heard
    cdef bint _notified
    cdef Py_ssize_t _tickets
    cdef object _incoming, _outgoing, _tls
    cdef object _go_on(self, Channel channel)
    cpdef object join(self, End end)
    @cython.locals(count=Py_ssize_t)
    cdef Py_ssize_t _decrypt(self, object view) except -1
    cdef object _answer(self)
    cdef object _alert(self)
    @cython.locals(sent=Py_ssize_t)
    cdef object _put(self, bytes record, int flags)
    cdef object _put_all(self, object records)
    cdef object _keep(self, bytes data, Py_ssize_t sent)
    cdef object _say_goodbye(self)
