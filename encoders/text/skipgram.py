"""Train word vectors in a process of its own: `env MALLOC_PERTURB_=255 python -I skipgram.py CORPUS MODEL OPTIONS`.

OPTIONS: arguments of fasttext.train_unsupervised, as a JSON object.

On one thread fastText 0.9.3 draws only the first tenth of its matrix (DenseMatrix::uniform) and leaves the rest as the
allocator gave it: old memory, hence other vectors each time, or NaN. With MALLOC_PERTURB_=255 glibc gives zeros.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import fasttext


def main(corpus: str, model: str, options: dict[str, Any]) -> None:
    fasttext.train_unsupervised(
        corpus,
        model="skipgram",
        minCount=1,
        t=1e-3,
        thread=1,  # More threads race: other vectors each time.
        verbose=0,
        **options,
    ).save_model(model)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
