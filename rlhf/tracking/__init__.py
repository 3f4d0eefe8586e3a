"""Metrics, TensorBoard, console and live view."""
