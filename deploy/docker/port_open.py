"""Ends with 0 if something takes connections on a port of this container: ``python port_open.py PORT``."""

import socket
import sys

socket.create_connection(("localhost", int(sys.argv[1])), timeout=5).close()
