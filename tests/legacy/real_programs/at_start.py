"""Run at the start of every interpreter of the environment while the facade is tried; see run.py."""

import os
import sys

from tricorn.socketserver import install

install()
with open(os.environ["TRICORN_WITNESS"], "a") as witness:
    print(sys.modules["socketserver"].__name__, file=witness)
