client 1.2.3.5 server 0
client 1.2.3.6 server 9
