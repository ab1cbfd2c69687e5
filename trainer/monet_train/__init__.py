"""Train, evaluate and export the networks that `monet_edge` runs; needs torch, which is imported by the modules that use it.

dataset, prepare        labelled scans as they come; checked and packed, exactly
data, augment           all slices on a device, as the runtime would feed them; random changes to a batch
network, losses         a Spec as a module; what it minimises
config, config_text     every setting; settings as text
train                   the loop over epochs, made of state, step, schedule and validate
checkpoint              a state on disk
export, evaluate        a trained network as a weights file; how good it is on scans
card, figures           what is told and drawn of it
cli, options            the command line `monet-train`
synth/                  images generated from label maps, to train without scans
federated/              hospitals that train together
"""
