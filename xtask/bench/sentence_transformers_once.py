"""One text to one vector as a whole program, printed as JSON: `tx embed --json` in Python.

    python sentence_transformers_once.py MODEL TEXT
"""

import json
import sys

from sentence_transformers import SentenceTransformer

folder, text = sys.argv[1:]
model = SentenceTransformer(folder, device="cpu")
print(json.dumps(model.encode([text], show_progress_bar=False).tolist()))
