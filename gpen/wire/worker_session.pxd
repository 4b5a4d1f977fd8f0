from gpen.model.client cimport Client
from gpen.model.lease cimport Lease
from gpen.wire cimport kernel
from gpen.wire.relay cimport End
from gpen.wire.session cimport Session

cimport cython


cdef class RemoteLease(Lease):
    cdef readonly int number
    cdef object _connected
    cpdef object connected(self)


cdef class WorkerSession(Session):
    cdef object _admission, _last_failure, _main, _place, _place_endpoints, _place_name
    cdef bint _introduces_itself, _is_limited, _is_news, _is_watched, _servers_are_full
    cpdef bint _admit(self) except -1
    cpdef Lease _reserve(self, bint denied, Client client, list tried)
    @cython.locals(lease=Lease)
    cpdef object parted(self, End end)
