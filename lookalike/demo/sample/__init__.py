"""A catalogue of products that nobody sells: photos, titles, shops and prices, made from a seed."""
