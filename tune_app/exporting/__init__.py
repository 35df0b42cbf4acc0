"""The best configurations as folders that stand on their own, and predictions with them."""
