"""Statistics of what a model's weights are multiplied with, gathered from data."""
