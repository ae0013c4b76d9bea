"""Measuring, and what follows from it: `recc tune`, `recc bench`, and the store of what they found.

Only `store` and `tuned` take part in a call, and they time nothing.
"""
