"""The tiny base, from nothing: words → corpus → tokenizer → weights, all by one seed.

`words.py` and `customers.py` hold what it may know, `messages.py` and `corpus.py` speak it,
`pretrain.py` learns it. Every text was written for this project; nothing is downloaded.
"""
