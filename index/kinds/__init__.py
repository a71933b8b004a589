"""Compressed forms of vectors, behind one seam: what finds candidates."""
