"""``python -m recc.grammar`` writes the files that are made from the grammar."""

from recc.grammar.highlight import FILE, text

FILE.write_text(text(), "utf-8")
print(f"{FILE}: written")
