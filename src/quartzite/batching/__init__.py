"""From items of many requests to full micro-batches, fairly; every accepted item ends in a vector or a failure."""
