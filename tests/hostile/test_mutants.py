"""Promise L1: no file kills, hangs or fills the host. (`python tests/hostile/mutate.py --count 20000` by hand.)"""

import subprocess
import sys
from pathlib import Path


def test_mutants_end_in_a_sentence():
    # In a process of its own: a child's peak of memory begins at that of its parent, and torch is large. As many as CI
    # asks for: what waits must not fill the memory either.
    command = [sys.executable, str(Path(__file__).with_name("mutate.py")), "--count", "1000000", "--seconds", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
