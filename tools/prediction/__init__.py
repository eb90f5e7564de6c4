"""Predictions of tools/predict.py: sources, windows, the network, what is written."""
