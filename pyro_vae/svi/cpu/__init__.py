"""Native kernels of a compiled step on the CPU; see the README beside this file."""
