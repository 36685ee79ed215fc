"""The networks: a pretrained backbone, the condition encoder, the U-Net, and their folders."""
