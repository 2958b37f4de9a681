"""Rows: what a dataset holds, read one at a time, each one parsed or named with what is wrong.

    files.py      a file, a folder or a Hub id → records, with the line of each
    forms.py      a record → a row: alpaca, chat messages, ShareGPT, pairs, preferences, KTO
    duplicates.py rows that are there twice, or nearly
    flags.py      what a reader should look at: secrets, placeholders, languages
    receipt.py    where each row went

Nothing here knows tokens (`train/tokens.py` does) or torch.
"""
