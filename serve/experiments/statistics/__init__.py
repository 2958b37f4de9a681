"""What outcomes prove, however often one looks: pure functions on arrays, nothing of the server.

Evidence is the natural logarithm of an e-value, `log_e`: if the null is true, the e-value E ever
reaches 1/α with probability at most α (Ville 1939), so α holds for whoever looks after each outcome
and stops at will. `multiplicity.threshold` says what `log_e` must reach; docs/statistics.md says
which function answers which question, and how often each erred.
"""
