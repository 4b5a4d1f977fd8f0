cimport cython
from gpen.model.client cimport Client, ClientTable
from gpen.model.lease cimport Lease
from gpen.model.server cimport Server
from gpen.wire cimport kernel
from gpen.wire.conversation cimport Conversation, Front, Seeker
from gpen.wire.relay cimport End, Stream


cdef class Session(Seeker):
    cdef public End down, up
    cdef public object stalled
    cdef object _opening, _protocol, _route
    cdef bint _announced, _relaying
    cdef public bint _lingers
    cdef int _kept_alive, _status
    @cython.locals(up=End, down=End)
    cpdef tuple volumes(self)
    cpdef object run(self)
    @cython.locals(up=End, down=End)
    cpdef object settle(self, End end)
    @cython.locals(lease=Lease)
    cpdef object parted(self, End end)
    @cython.locals(front=Front)
    cdef object _converse(self)
    @cython.locals(client=Client, lease=Lease, server=Server)
    cdef object _dial(self, bint denied)
    @cython.locals(front=Front, deadline=double, now=double, share=double)
    cdef object _connect(self, Lease lease)
    @cython.locals(front=Front, down=End, up=End)
    cdef object _relay(self, object sock, Stream stream)
    cdef object _finish(self, object ending)
    cpdef object _end(self)
