"""The application with a debugger that listens: what `./run up` serves where DEBUGGER_PORT is set."""

import multiprocessing
import os
from importlib import import_module

# Else pydevd warns at each start of breakpoints in the standard library's frozen modules.
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

import debugpy

# Hypercorn's master imports this as well when it reloads, to know which files there are.
if multiprocessing.parent_process() is not None:
    # In this process: an adapter of its own would outlive it, and keep the port from the next worker.
    debugpy.listen(("127.0.0.1", int(os.environ["DEBUGGER_PORT"])), in_process_debug_adapter=True)

_module, _, _name = os.environ["QUART_APP"].partition(":")
app = getattr(import_module(_module), _name or "app")
