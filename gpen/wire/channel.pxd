from gpen.wire.kernel cimport Handler
from gpen.wire.poller cimport Poller

cimport cython


cdef class Frames:
    cdef public object descriptors
    cdef object _came, _buffer
    cdef bytes _rest
    cpdef list read(self, object sock)
    @cython.locals(start=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t, length=Py_ssize_t, descriptors=Py_ssize_t)
    cdef list _records(self, object data)


cdef class Channel(Handler):
    cdef Frames _frames
    cdef object _sock, _take, _lost, _faults, _out, _soon, _timer
    cdef Poller _poller
    cdef list _records, _passed
    cdef bint _is_due, _is_mentioned, _is_taking
    cdef int _mask
    cpdef object ready(self, unsigned int events)
    cpdef object flush(self)
    cdef object _read(self)
    cdef object _take_all(self)
    cdef object _pack(self)
    cdef object _send_piece(self)
    cdef object _watch(self, int mask)
