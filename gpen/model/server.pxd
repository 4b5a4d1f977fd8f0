cdef class Stay:
    cdef public long long left


cdef class Server:
    cdef public str name
    cdef public object number, address, agent, check, check_port, owner, tls, tls_name, state, condemned, drained, kept_away
    cdef public dict targets, verdicts, elsewhere, causes
    cdef public list spares
    cdef public Target target
    cdef public Stay stay
    cdef public object max, hard, weight, prio, acl
    cdef public long long sessions, beside, total, failures, sx, rx
    cdef public bint deleted


cdef class Target:
    cdef public Server server
    cdef public object transport, port, endpoints, trial, reason, silences
    cdef public unsigned long long digest
    cdef public double down_until, blamed, since, changed, returned
    cdef public bint is_silent, is_away


cdef class Member:
    cdef public Server server
    cdef public Target target
    cdef public object number, max, configured, weight, prio
