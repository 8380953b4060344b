"""Networks written by hand over one flat float32 array."""
