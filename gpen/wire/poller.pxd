from gpen.wire.kernel cimport Epoll, Handler




cdef class Call(Handler):
    cdef object _function


cdef class Poller(Epoll):
    cdef readonly object hub, loop, view
    cdef public object pipes
    cdef readonly list unfinished
    cdef public Handler last_look
    cdef object _faults, _pause, _watcher
    cdef list _at_end
    cdef bint _is_in_turn
    cpdef object _pass(self)
    cdef int _turn(self, double seconds) except -1
    cpdef object finish(self)
    cdef object _tell_end(self, Handler handler)
