"""Personal networks for clients whose data stay where they are (pFedHN).

    from hyperloom.recipes.federated.torch import hypernetwork, join, serve, train_locally

`hyperloom demo federated` trains them on scikit-learn's digits, two classes a client.
"""
