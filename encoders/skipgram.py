"""Train word vectors in a process of its own: `env MALLOC_PERTURB_=255 python -I skipgram.py CORPUS MODEL EPOCHS RATE`.

On one thread fastText 0.9.3 draws only the first tenth of its matrix (DenseMatrix::uniform) and leaves the rest as the
allocator gave it: old memory, hence other vectors each time, or NaN. With MALLOC_PERTURB_=255 glibc gives zeros.
"""

from __future__ import annotations

import sys

import fasttext

DIM = 100
BUCKETS = 50_000  # Of hashed subwords: 20 MB of vectors, where fastText's own default is 800 MB.


def main(corpus: str, model: str, epochs: int, rate: float) -> None:
    fasttext.train_unsupervised(
        corpus,
        model="skipgram",
        dim=DIM,
        bucket=BUCKETS,
        minCount=1,
        minn=3,
        maxn=6,
        t=1e-3,
        epoch=epochs,
        lr=rate,
        thread=1,  # More threads race: other vectors each time.
        verbose=0,
    ).save_model(model)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
