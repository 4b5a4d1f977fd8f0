cimport cython
from gpen.wire cimport kernel
from gpen.wire.kernel cimport Handler, Pipe, Socket
from gpen.wire.poller cimport Poller


cdef unsigned int EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, _END, _INPUT, _ONCE, _RARE
cdef int AGAIN, LOST, MORE, PIECE, _BULK, _LARGE, _MOST


cdef End NOBODY


cdef class Stream:
    cdef public bint says_goodbye, counts_at_once, has_ended
    cdef public object failure
    cpdef object join(self, End end)
    cpdef object has_spoken(self, End end)
    cpdef object half_close(self, End end)


cdef class End(Handler):
    cdef public Socket sock
    cdef public int fd
    cdef public Poller poller
    cdef public object _relay, _recv_into, _send
    cdef public End peer
    cdef public unsigned int _mask
    cdef public object pending, tap, filter
    cdef public Stream stream
    cdef public int flags
    cdef public long long received, sent
    cdef public double active
    cdef public bint eof, deaf, reset, truncated
    cdef bint _is_plain
    cdef int _large
    cpdef object speak(self, Stream stream)
    cpdef object start(self, End peer)
    @cython.locals(count=Py_ssize_t, sent=Py_ssize_t, peer=End, is_all=bint)
    cpdef object ready(self, unsigned int events)
    cpdef object failed(self)
    cpdef object close(self)
    cpdef object mute(self)
    @cython.locals(count=Py_ssize_t, sent=Py_ssize_t, peer=End, is_direct=bint)
    cdef object _read(self, int flags)
    @cython.locals(peer=End)
    cdef object _account(self, Py_ssize_t count, Py_ssize_t sent)
    @cython.locals(count=Py_ssize_t, sent=Py_ssize_t, peer=End)
    cdef (Py_ssize_t, Py_ssize_t) _transfer(self, object view, int flags) except *
    @cython.locals(count=Py_ssize_t, sent=Py_ssize_t, moved=Py_ssize_t, peer=End, pipe=Pipe)
    cdef bint _splice(self, int flags) except -1
    cdef object _see_to(self, unsigned int events)
    cpdef object keep(self, object rest, bint for_room=*)
    cpdef object pause(self)
    cpdef object go_on(self)
    cpdef object read_by(self, object move)
    @cython.locals(count=Py_ssize_t, sent=Py_ssize_t)
    cdef object _flush(self)
    cdef object _drop_pending(self)
    cpdef object release(self)
    @cython.locals(peer=End)
    cdef object _ended(self)
    cdef object _lost(self)
    cpdef object deafen(self)
    cdef object _hung_up(self)
    cpdef object wake(self)
    cpdef object half_close(self)
    cdef object _watch(self, unsigned int mask)
