"""What nnU-Net does with a case, for its 2-D networks: the networks, the record of their plans, and every step before and after them.

The facts are those of nnU-Net 2.8 (Isensee et al. 2021, "nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation"); nnU-Net itself is not needed. The way of a case through all of it is `ways.nnunet`.
"""

from .networks import plain_conv_unet, residual_encoder_unet, side_by_side

__all__ = ["plain_conv_unet", "residual_encoder_unet", "side_by_side"]
