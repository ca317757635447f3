"""Says at the end of the interpreter, after Treadle's own exit, which of Treadle's threads are left.

A host imports it before Treadle: what is registered first is called last.
"""

import atexit
import os
import sys
import threading


@atexit.register
def say_what_is_left():
    """Print it; whoever reads the output knows, too, that the interpreter came to its regular end."""
    left = [each.name for each in threading.enumerate() if each.name.startswith('treadle')]
    sys.stdout.flush()
    # In one piece: children of multiprocessing say it on the same pipe at the same time.
    os.write(1, f'left: {left}\n'.encode())
