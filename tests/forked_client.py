"""The program that forked_python.python() names: ask the server for a process, and end as that process ends.

It gets arguments, environment, folder, streams and the largest file from here, and signals. Where this is killed, so is
that. Few imports: this starts in milliseconds.
"""

import json
import os
import resource
import signal
import socket
import sys

server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "socket"))
request = [sys.argv, dict(os.environ), os.getcwd(), resource.getrlimit(resource.RLIMIT_FSIZE)]
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
code = int(server.recv(10) or -signal.SIGKILL)
if code < 0:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
