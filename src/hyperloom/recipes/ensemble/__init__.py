"""Twenty members of an ensemble from one generator, beside twenty networks.

    from hyperloom.recipes.ensemble.torch import from_one_generator

`hyperloom demo ensemble` trains them on scikit-learn's digits.
"""
