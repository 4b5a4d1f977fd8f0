"""Direct server return: frames of clients go on to servers as they are, and servers answer clients themselves.

``frames.py`` reads and makes Ethernet frames, ``programs.py`` says which of them the kernel gives us; ``interface.py``
is the socket of an interface, ``neighbours.py`` are the servers there, ``tarpit.py`` answers for nobody; ``flow.py`` is
what one client sends, ``listener.py`` reads the frames and knows whose they are.
"""
