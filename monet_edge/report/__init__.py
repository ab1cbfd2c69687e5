"""What a result says to people and to programs: numbers, a picture, a web page.

Nothing is imported here: whoever wants no picture needs no pillow.
"""
