"""Self-contained pages about finished and unfinished work, drawn from files alone.

run.py: a run's `report.html`. compare.py: two or more runs. card.py: `MODEL_CARD.md`. folder.py reads a run folder and names what is
damaged; page.py holds a page together; chart.py draws. The other files are one part of the page each. Nothing here imports torch, runs a
model, or refers to another host, so a report can be made on any machine and opened from a disk or an e-mail.
"""
