"""Tables of rows in files: CSV, JSON lines, Excel and Parquet."""
