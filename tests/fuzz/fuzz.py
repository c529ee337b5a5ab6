"""The fuzzer: atheris (pip install atheris), on one of the targets.

    python tests/fuzz/fuzz.py TARGET CORPUS_FOLDER -max_total_time=600 -max_len=600

adds to the folder what leads somewhere new; ``-merge=1 SMALL BIG`` keeps of it what is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["tricorn", "targets"]):
    from targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
