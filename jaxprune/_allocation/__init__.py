"""How a budget is shared among leaves: sparsities that meet it exactly, in whole weights."""
