"""What a user calls: a model and images in, a table out.

images (tensors, Dataset, DataLoader, folder) -> images.py      any nn.Module -> classifier.py
both, with a purifier and attacks             -> evaluate.py -> a run like that of `test` -> result.py
before any of it is paid for                  -> preflight/, on a few images
"""
