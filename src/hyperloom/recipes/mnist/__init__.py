"""A CNN whose second kernel is generated from a few numbers, an input channel at a time.

Ha, Dai and Le, "HyperNetworks", ICLR 2017, section 4.1: the static hypernetwork.
"""
