"""The sale and its troubles: scenarios an operator would recognise, on the real server process.

What lives here: a load that pays while something goes wrong, what can go wrong, what must be true
afterwards, and the report with its picture. The load generator is the one that everybody has
(`ledger load`); nothing here judges a payment or knows what a record is.
"""
