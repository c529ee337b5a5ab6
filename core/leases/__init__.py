"""What a transport whose requests are rows of a database table is made of.

`statements` has the SQL, `sqlite` and `postgres` speak to the two databases, `desk` is one
process's side of a table, `renewing` keeps leases alive; `alarm` and `file_watch` are descriptors to wait on.
"""

from __future__ import annotations

__all__: list[str] = []
