"""A study folder or a run folder as one HTML page."""
