"""The tests, in which numerical libraries have one thread: networks and data are small.

The variable is read when a library is loaded, so it is set before anything else is imported. Two
workers whose libraries have two threads each wait for one another most of the time.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
