"""What the standard library's own server classes need: their usual handlers, and the state those find on the server."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tricorn.explain.lineage import Lineage
from tricorn.explain.naming import Names

__all__ = ["presets_of", "registrations_of", "usual_handler"]

#: The class by which a family is known, and the handler that it is used with; the first that is found counts.
_USUAL = {
    "wsgiref.simple_server:WSGIServer": "WSGIRequestHandler",
    "http.server:HTTPServer": "SimpleHTTPRequestHandler",
}


def _family(lineage: Lineage, name: str) -> type | None:
    return next((cls for cls in lineage.mro if f"{cls.__module__}:{cls.__qualname__}" == name), None)


def usual_handler(lineage: Lineage) -> Any:
    """The handler that the standard library has for such a server, or ``None``."""
    for name, handler in _USUAL.items():
        if _family(lineage, name):
            return getattr(import_module(name.partition(":")[0]), handler)
    return None


def presets_of(lineage: Lineage, names: Names) -> dict[str, list[str]]:
    """The lines that make ready what no constructor sets."""
    wsgi = _family(lineage, "wsgiref.simple_server:WSGIServer")
    if wsgi is None:
        return {}
    presets = {"base_environ": ["self.setup_environ()"] if lineage.owner("setup_environ") is not wsgi else _ENVIRON}
    if lineage.owner("application") is wsgi:
        demo = names.at(wsgi.__module__, "demo_app")
        presets["application"] = [f"self.application = {demo}  # in the place of yours, which set_app() was given"]
    return presets


_ENVIRON = [
    "self.base_environ = {",
    '    "SERVER_NAME": self.server_name,  # as bound; today it is looked up in the DNS',
    '    "GATEWAY_INTERFACE": "CGI/1.1",',
    '    "SERVER_PORT": str(self.server_port),',
    '    "REMOTE_HOST": "",',
    '    "CONTENT_LENGTH": "",',
    '    "SCRIPT_NAME": "",',
    "}",
]


def registrations_of(lineage: Lineage, names: Names) -> list[str]:
    """A function to call, where a server without any would only refuse."""
    remark = "# in the place of your own functions"
    if _family(lineage, "xmlrpc.server:MultiPathXMLRPCServer"):
        made = names.at("xmlrpc.server", "SimpleXMLRPCDispatcher")
        return [f'self.dispatchers["/RPC2"] = {made}()', f'self.dispatchers["/RPC2"].register_function(pow)  {remark}']
    if _family(lineage, "xmlrpc.server:SimpleXMLRPCDispatcher"):
        return [f"self.register_function(pow)  {remark}"]
    return []
