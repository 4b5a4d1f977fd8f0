cimport cython
from gpen.wire cimport kernel
from gpen.wire.poller cimport Poller


cpdef object prepare(object sock, object settings)
@cython.locals(sock=kernel.Socket, result=int, place=tuple)
cpdef object send_datagrams(object endpoint, str source)
@cython.locals(sock=kernel.Socket, result=int)
cpdef object connect(object endpoint, object settings, Poller poller, double seconds, bint unseen=*)
