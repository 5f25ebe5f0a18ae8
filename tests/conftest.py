"""What holds for every test: no network, and few threads."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Models this small spend their time waiting for threads if there are several.
os.environ["OMP_NUM_THREADS"] = "1"
