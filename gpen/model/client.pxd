cdef class Client:
    cdef public object address, number, server, country, learnt_from
    cdef public double last
    cdef public long long connects, sx, rx


cdef class ClientTable:
    cdef object _clients
    cdef long long _next_number
    cdef dict _sessions
    cpdef Client touch(self, object address, double now, object limit, double tracking)
    cpdef object leave(self, Client client)
    cpdef object succeed(self, ClientTable former)
    cpdef object is_memory_of(self, ClientTable other)
