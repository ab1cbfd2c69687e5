"""What a result says to people and to programs: numbers, a picture, a web page, the record of a run.

Nothing is imported here: whoever wants no picture needs no pillow.
"""
