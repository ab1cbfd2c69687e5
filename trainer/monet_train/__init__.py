"""Train, evaluate and export the networks that `monet_edge` runs; needs torch, which is imported by the modules that use it.

dataset, dataset_json   labelled scans as they come, and the list of them; every fault named
splits, cases, labels   who trains and who validates; what a run was trained on; labels matched by name
prepare                 cases checked and packed, exactly
data, augment           all slices on a device, as the runtime would feed them; random changes to a batch
network, losses         a Spec as a module; what it minimises
config, defaults        every setting; what `fit` takes unless told otherwise
config_text             settings as text, old names included
train                   the loop over epochs, made of state, step, schedule and validate
transfer, mix           a start from another model's weights; the mean of before and after
checkpoint              a state on disk
fold, export            a trained network, or the mean of several, as a weights file
provenance              what is said of where it comes from
evaluate                how good it is on scans
nnunet                  nnU-Net's model folders as a Spec and tensors
card, figures           what is told and drawn of it
quality/                how sure it is against how right, so that a scan's Dice can be expected
cli/, options           the command line `monet-train`
synth/                  images generated from label maps, to train without scans
federated/              hospitals that train together
"""
