"""How requests come in and answers go out: the ASGI application, its server, threads and bounds."""
