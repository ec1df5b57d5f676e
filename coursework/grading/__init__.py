"""The checks of the exercises, one module each, and the process in which a student's file runs."""
