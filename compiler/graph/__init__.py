"""Passes from ONNX to ONNX: each takes a program and returns one that computes the same."""
