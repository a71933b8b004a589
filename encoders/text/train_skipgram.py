"""Script that trains word vectors: `env MALLOC_PERTURB_=255 python -I train_skipgram.py CORPUS MODEL OPTIONS`.

OPTIONS: arguments of fasttext.train_unsupervised, as a JSON object.

A separate process because of MALLOC_PERTURB_=255, with which glibc allocates zeroed memory: on one thread fastText
0.9.3 initialises only the first tenth of its matrix (DenseMatrix::uniform). The rest would be old memory, hence other
vectors each time, or NaN.
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
        thread=1,  # More threads race, and the vectors would differ each time.
        verbose=0,
        **options,
    ).save_model(model)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
