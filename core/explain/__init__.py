"""What a `socketserver` class is, and what it becomes.

::

    from http.server import ThreadingHTTPServer
    from tricorn.explain import explain

    print(explain(ThreadingHTTPServer))

Reads classes, and makes no instance of them: their order of bases, class attributes, and the code of their methods.
``tricorn explain`` is this on the command line.
"""

from __future__ import annotations

from tricorn.explain.explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
