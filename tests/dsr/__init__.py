"""Direct server return: a client, a balancer and servers at one switch."""
