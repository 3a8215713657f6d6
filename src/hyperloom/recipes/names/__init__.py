"""A speller whose weights change at every letter: HyperLSTM on names.

    from hyperloom.recipes.names.data import read_names
    from hyperloom.recipes.names.torch import Speller

Source: Ha, Dai and Le, "HyperNetworks", ICLR 2017, equations 10 to 13. `hyperloom demo names`.
"""
