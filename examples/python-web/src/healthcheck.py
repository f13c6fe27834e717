"""Ends with 0 when the service answers."""

import os
import sys
import urllib.request

with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/health", timeout=2) as answer:
    sys.exit(answer.status != 200)
