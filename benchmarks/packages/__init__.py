"""Models of other packages, at their real sizes: whether what jaxprune reads of them is true."""
