"""Runs in folders, and studies: grids of runs with their tables, figures and reports."""
