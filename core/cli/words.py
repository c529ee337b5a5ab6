"""The help texts.  A line with a backspace alone keeps click from filling the paragraph after it."""

from __future__ import annotations

__all__ = ["EXPLAIN", "MATRIX", "PARTS", "ROOT", "SERVE"]

ROOT = """\
Network servers by composition: a transport, a dispatcher, a handler.

\b
Examples:
  tricorn serve tcp://127.0.0.1:9999 echo
  tricorn parts
  tricorn matrix
  tricorn explain http.server:ThreadingHTTPServer

"tricorn COMMAND --help" tells the rest.  Exit status 2 is a usage or configuration error, told in one line.
"""

SERVE = """\
Serve HANDLER on every TRANSPORT until SIGTERM or Ctrl-C.

\b
TRANSPORT  scheme:location?option=value&...
           tcp://127.0.0.1:9999  udp://[::1]:514
           unix:/run/app.sock?mode=0o660
           Port 0 is a free one.
HANDLER    package.module:attribute, a request-handler class or a function
           of one request; the current directory can be imported from, as
           with python -m.  Or a registered name such as echo.

"tricorn parts" lists the transports, dispatchers and handlers there are, with their options.

As soon as clients can connect, one line on standard output tells where: "serving" and then the addresses, in the
order of the transports, written as they would be given here.  The log goes to standard error.

The first SIGTERM or Ctrl-C drains: no new requests, and those that run get --drain-timeout seconds.  A second one cuts
them off now.  At the end a report of how many requests ended in which way is printed on standard output.

\b
Examples:
  tricorn serve tcp://127.0.0.1:9999 echo
  tricorn serve tcp://127.0.0.1:8000 http.server:SimpleHTTPRequestHandler
  tricorn serve tcp://127.0.0.1:0 app:Chat -d 'thread-pool?workers=32'
  tricorn serve tcp://127.0.0.1:53 udp://127.0.0.1:53 app.dns:answer -d fork

\b
Exit status:
  0    drained; every request came to its own end
  1    drained, and requests were cancelled, abandoned or lost
  2    nothing was served: unknown part, bad option, port in use, ...
  70   the server itself failed; the traceback is on standard error
  130  interrupted before the server was composed
"""

PARTS = """\
List what is installed: transports, dispatchers and handlers, each with the distribution that it is from and the options
that it takes; and the plugins that could not be loaded, with the error.

Written as tables where standard output is a terminal, and otherwise one line for each row.

\b
Examples:
  tricorn parts
  tricorn parts --json | python -m json.tool
"""

MATRIX = """\
Serve an echo over every transport with every dispatcher that is installed, each pair to a real client, and show the
table.

\b
  served     a client sent something and got the same back
  refused    the parts do not fit; the note below the table says why
  not tried  there is no address or client to try it with; see the note
  failed     anything else; see the note

Servers are bound to free ports of the loopback interface and to sockets in a private folder.

\b
Examples:
  tricorn matrix
  tricorn matrix --json --timeout 2

\b
Exit status:
  0  no cell failed
  1  at least one did
"""

EXPLAIN = """\
Read a socketserver class, of the standard library or of tricorn.socketserver, and print what it does as a composition.
No instance is made; the current directory can be imported from, as with python -m.

The output is a Python program that runs as it is: save it, put in your address, and go on from there.  Its comments
tell which methods the class overrides and where each goes, and the sharp edges that the class has today.

The handler is the one given by --handler; else the default of the class's constructor, or the only one in its module,
or the usual one of http.server and wsgiref; else a placeholder that answers with what it got.

\b
Examples:
  tricorn explain http.server:ThreadingHTTPServer > app.py
  tricorn explain app:Server --handler app:Handler
  tricorn explain xmlrpc.server:SimpleXMLRPCServer --json

\b
Exit status:
  0  explained
  2  not importable, or no socketserver class
"""
