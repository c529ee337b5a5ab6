"""The three request-handler classes under the facade's name.

The same functions as in `tricorn.handlers`, in classes of their own: the original's order of inheritance has no room
for a further class, and old datagram handlers always reply, be it with an empty packet.
"""

from __future__ import annotations

from tricorn.handlers import request as modern
from tricorn.kinds import Traits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BaseRequestHandler", "DatagramRequestHandler", "StreamRequestHandler"]


#: What belongs to the one class object, and the annotations, which the original has none of.
_NOT_COPIED = {
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__dict__",
    "__static_attributes__",
    "__weakref__",
}


def _again(original: type, bases: tuple[type, ...] = (), **changes: Any) -> Any:
    own = {name: value for name, value in vars(original).items() if name not in _NOT_COPIED}
    return type(original.__name__, bases, {**own, **changes})


BaseRequestHandler = _again(modern.BaseRequestHandler)
StreamRequestHandler = _again(modern.StreamRequestHandler, (BaseRequestHandler,))
DatagramRequestHandler = _again(
    modern.DatagramRequestHandler,
    (BaseRequestHandler,),
    _tricorn=Traits(modern.DatagramRequestHandler._tricorn.kinds, always_replies=True),
)
