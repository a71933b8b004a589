"""ANN backends: compressed forms of vectors (faiss HNSW, IVF, half precision; NGT; GPU) behind one Protocol."""
