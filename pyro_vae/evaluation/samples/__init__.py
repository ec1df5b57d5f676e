"""Scores of samples against real images, by the features of both."""
