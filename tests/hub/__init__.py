"""A Hub double: a local HTTP server that the genuine `huggingface_hub` client talks to.

Behaves as the Hub is documented to, as far as a registry needs it; what it was never compared
with is the real Hub's own quirks. No Xet: large files go by LFS.
"""
