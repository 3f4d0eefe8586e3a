"""Read data files into checked records, RGB images and batches of token ids."""
