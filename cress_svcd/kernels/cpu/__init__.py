"""The C kernels and their ctypes side."""
