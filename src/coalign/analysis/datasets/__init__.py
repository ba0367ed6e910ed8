"""Studies of data sets: what is in each modality, what lies between them, and what a model would find hard in it."""
