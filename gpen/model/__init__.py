"""What the balancer knows and decides: no socket, no gevent, no clock of its own.

Nothing here can switch greenlets, so whatever a function reads and then writes is one step without a lock.
"""
