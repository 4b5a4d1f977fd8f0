from gpen.model.client cimport Client
from gpen.model.lease cimport Lease
from gpen.model.server cimport Member, Server


cdef class Selector:
    cdef public object pool, settings, roster, listener, turns
    cdef list _acls
    cdef public dict taken
    cdef public long long sent, received
    cdef public Member emergency, abuse
    cpdef object reserve(self, Client client, int port=*, object tried=*)
    cpdef object _leased(self, Member member, Client client)
    cpdef object choose(self, Client client, double now, int port=*, object tried=*)
    cpdef object refusal(self, Member member, Client client, double now, bint impatient=*, bint desperate=*)
    cpdef object _unavailable(self, Member member, double now, bint impatient=*, bint desperate=*)
    cpdef bint permits(self, object number, Client client)
