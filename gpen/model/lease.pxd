from gpen.model.server cimport Member, Server, Stay, Target


cimport cython


cdef class Lease:
    cdef object _address, _endpoints, _selector
    cdef Stay _stay
    cdef readonly bint is_open
    cdef readonly Member member
    cdef readonly Server server
    cdef readonly Target target
    cpdef object connected(self)
    cpdef object moved(self, long long sent, long long received)
    cpdef object release(self)
    cpdef object _leave_side(self, Server server)


cdef class Spare(Lease):
    cdef object _give_way
    cdef public object endpoint
