from gpen.model.client cimport Client
from gpen.model.lease cimport Lease
from gpen.model.selector cimport Selector
from gpen.model.server cimport Server, Target
from gpen.wire cimport kernel
from gpen.wire.conversation cimport Conversation, Front, Seeker

cimport cython


cdef class Figures:
    cdef public object active, descriptors, ended_sides, state, volumes, waiting


cdef class RemoteSession(Seeker):
    cdef object _endpoints, _failure, _leaving, _tell, _tlvs, _tried, _worker
    cdef bint _is_denied, _is_dialing, _is_to_wait
    cdef int _places
    cdef public Figures figures
    cpdef tuple volumes(self)
    @cython.locals(front=Front)
    cpdef object begin(self, object sock)
    @cython.locals(front=Front)
    cdef tuple _admission(self)
    @cython.locals(front=Front, client=Client, selector=Selector)
    cdef tuple _place_at_once(self)
    @cython.locals(server=Server, target=Target)
    cdef tuple _place(self, Lease lease)
    @cython.locals(server=Server, target=Target, client=Client)
    cdef bint _is_news(self, Lease lease) except -1
    @cython.locals(front=Front)
    cdef object _dials(self, bint is_dialing)
    @cython.locals(lease=Lease, client=Client, target=Target)
    cpdef object reached(self, double connected, int index)
    cdef object _settle(self, double finished, object volumes)
    cdef object _end(self, object ending, double finished, object volumes)
