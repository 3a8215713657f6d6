"""Gradients of single samples through generated weights: private training, and curvature.

Four groups have images that are turned differently, and one generator makes a classifier for each.
Private training (DP-SGD) needs the gradient of every image by itself, to clip it.
"""
