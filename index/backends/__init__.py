"""ANN backends: compressed forms of vectors (faiss HNSW, IVF, half precision; SymphonyQG; NGT; GPU), one Protocol."""
