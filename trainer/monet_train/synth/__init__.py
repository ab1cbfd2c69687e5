"""Training from label maps alone: images of any contrast are generated on the device, batch by batch; no scan is needed.

labels      which FreeSurfer number is which structure and which tissue: one table
maps        label maps read, packed into one file, and kept on a device
ages        younger heads made of old ones
ranges      how far the random goes
draw        everything random about a batch
render      label maps and draws to images and labels: a pure function
generator   batches by seed; generated slices to validate on
heads       whole generated heads, to measure what is calibrated on scans
origin      what a run's images were made of, for its folder and its file
train       the loop, made of what `monet_train` has
negatives   FLAIR scans of heads without a tumour, as a data set for a network that looks for one
pictures    a page of generated slices with their labels
commands    the command `monet-train synth`
"""
