"""How sure a network is, and how right: what `monet_edge.quality` needs to tell a scan's Dice in advance.

calibration  from pairs of agreement and Dice to a calibration, and how well it holds on others
renew        a weights file and its card with a calibration made anew
commands     the command `monet-train calibrate`
"""
